// A running /v1/completions call: completions to chunks or to one answer.
//
// Threading: as Exchange. The loaded model outlives it.
#pragma once

#include <string>
#include <vector>

#include "server/api/generation_fields.h"
#include "server/exchange.h"
#include "server/openai/logprobs.h"
#include "server/openai/usage.h"

namespace longshore::server {

struct TextCall {
  std::vector<session::CompletionRequest> prompts;  // of the first choice of each
  std::vector<std::string> echo;                    // of each prompt; empty: no echo
  int64_t n = 1;  // choices of each prompt; choice n * p + i is prompt p's
  StreamFields stream;
  std::string id;
  std::string model;
  int64_t created = 0;  // seconds of Unix time
};

class CompletionsExchange : public Exchange {
 public:
  CompletionsExchange(const session::LoadedModel& loaded, TextCall call);

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
  [[nodiscard]] size_t prompt_of(size_t choice) const {
    return choice / static_cast<size_t>(call_.n);
  }
  [[nodiscard]] bool wants_logprobs() const;
  void add_logprob(LegacyLogprobs& logprobs, const engine::Sampled& token) const;
  void count(Usage& usage, size_t choice, const session::Completion& completion) const;
  std::string chunk(size_t choice, const std::string& text, const Json& finish_reason = nullptr,
                    const Json& matched_stop = nullptr);
  [[nodiscard]] Json envelope(Json choices) const;

  const session::LoadedModel& loaded_;
  TextCall call_;
  std::vector<LegacyLogprobs> logprobs_;  // by choice: of tokens that no chunk has shown yet
  std::vector<size_t> shown_;             // by choice: bytes of its text that have been written
  Usage usage_;
  int64_t tokens_ = 0;  // of all choices so far
  size_t finished_ = 0;
  bool ended_ = false;
};

}  // namespace longshore::server
