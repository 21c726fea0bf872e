// A running chat call: completions to chunks or to one answer.
//
// Threading: as Exchange. The loaded model outlives it.
#pragma once

#include <string>
#include <vector>

#include "server/api/generation_fields.h"
#include "server/exchange.h"
#include "server/openai/usage.h"

namespace longshore::server {

struct ChatCall {
  session::CompletionRequest request;  // of the first choice
  int64_t n = 1;
  StreamFields stream;
  bool show_reasoning = true;       // false: reasoning is left out
  bool stream_reasoning = true;     // false: it comes in one piece when it has ended
  bool parallel_tool_calls = true;  // false: calls after the first are left out
  std::string id;
  std::string model;
  int64_t created = 0;  // seconds of Unix time
  Ids ids;              // of the tool calls
};

class ChatExchange : public Exchange {
 public:
  ChatExchange(const session::LoadedModel& loaded, ChatCall call);

  std::vector<session::CompletionRequest> take_requests() override;
  [[nodiscard]] bool streams() const override { return call_.stream.stream; }
  std::string begin(const engine::GenerationStats& stats) override;
  std::string progress(size_t choice, const session::Progress& progress) override;
  std::string finished(size_t choice, const session::Completion& completion) override;
  std::string failed(const ApiError& error) override;
  [[nodiscard]] std::string keep_alive(bool begun) const override;
  [[nodiscard]] std::string response(
      const std::vector<session::Completion>& completions) const override;

 private:
  struct Choice {
    std::string held_reasoning;     // where it is not streamed
    Json logprobs = Json::array();  // of tokens that no chunk has shown yet
    bool finished = false;
  };

  [[nodiscard]] bool wants_logprobs() const;
  [[nodiscard]] bool shows_call(int index) const { return index == 0 || call_.parallel_tool_calls; }
  [[nodiscard]] std::string call_id(size_t choice, int index) const;
  std::string show(size_t choice, const text::OutputDelta& delta);
  std::string flush_reasoning(size_t choice);
  // One event. finish_reason and matched_stop are null but in a choice's last.
  std::string chunk(size_t choice, const Json& delta, const Json& finish_reason = nullptr,
                    const Json& matched_stop = nullptr);
  [[nodiscard]] std::string event(const Json& choices, const Json& usage) const;
  [[nodiscard]] Json message(size_t choice, const session::Completion& completion) const;

  const session::LoadedModel& loaded_;
  ChatCall call_;
  std::string head_;  // of every chunk, up to its choices
  std::vector<Choice> choices_;
  Usage usage_;
  int64_t tokens_ = 0;  // of all choices so far
  size_t finished_ = 0;
  bool ended_ = false;
};

}  // namespace longshore::server
