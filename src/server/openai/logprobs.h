// Log probabilities in OpenAI's two forms.
//
// Threading: free functions without state.
#pragma once

#include <string>

#include "engine/sampler.h"
#include "server/api/sse.h"
#include "text/tokenizer.h"

namespace longshore::server {

// A token's text; bytes that are not whole characters become U+FFFD.
[[nodiscard]] std::string token_text(const text::Tokenizer& tokenizer, int32_t id);

// {"token", "logprob", "bytes", "top_logprobs"}: an element of a chat choice's logprobs.content.
[[nodiscard]] Json chat_logprob(const text::Tokenizer& tokenizer, const engine::Sampled& token);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of /v1/completions.
class LegacyLogprobs {
 public:
  // start: the first token's place in the choice's text, in characters.
  explicit LegacyLogprobs(int64_t start = 0) : offset_(start) {}
  void add(const text::Tokenizer& tokenizer, const engine::Sampled& token);
  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  // What has come since the last time.
  Json take();

 private:
  int64_t offset_;
  Json tokens_ = Json::array();
  Json token_logprobs_ = Json::array();
  Json top_logprobs_ = Json::array();
  Json offsets_ = Json::array();
};

}  // namespace longshore::server
