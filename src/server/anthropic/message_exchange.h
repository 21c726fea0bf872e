// A running /v1/messages call: a completion to events or to one answer.
//
// Threading: as Exchange.
#pragma once

#include <string>
#include <vector>

#include "server/anthropic/blocks.h"
#include "server/api/ids.h"
#include "server/api/sse.h"
#include "server/exchange.h"

namespace longshore::server {

struct MessageCall {
  session::CompletionRequest request;
  bool stream = false;
  bool show_thinking = false;
  bool parallel_calls = true;  // false: calls after the first are left out
  std::string model;
  Ids ids;
};

class MessageExchange : public Exchange {
 public:
  explicit MessageExchange(MessageCall call);

  std::vector<session::CompletionRequest> take_requests() override { return {call_.request}; }
  [[nodiscard]] bool streams() const override { return call_.stream; }
  std::string begin(const engine::GenerationStats& stats) override;
  std::string progress(size_t choice, const session::Progress& progress) override;
  std::string finished(size_t choice, const session::Completion& completion) override;
  std::string failed(const ApiError& error) override;
  [[nodiscard]] std::string keep_alive(bool begun) const override;
  [[nodiscard]] std::string response(
      const std::vector<session::Completion>& completions) const override;

 private:
  [[nodiscard]] Json message(Json content, Json stop_reason, Json stop_sequence, Json usage) const;
  [[nodiscard]] std::string event_of(const BlockStep& step) const;
  // The same blocks in the same order as the stream's.
  [[nodiscard]] Json content_of(const session::Completion& completion) const;
  [[nodiscard]] Json empty_block(const BlockStep& step) const;

  MessageCall call_;
  BlockSequence blocks_;
  bool ended_ = false;
};

}  // namespace longshore::server
