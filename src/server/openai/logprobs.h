// Log probabilities in OpenAI's two forms.
//
// Threading: free functions without state.
#pragma once

#include <string>
#include <vector>

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
  // shows: the token's bytes are part of the text, as those of a skipped special token are not.
  void add(const text::Tokenizer& tokenizer, const engine::Sampled& token, bool shows = true);
  // True if a token that has not been taken begins before this byte of the generated text.
  [[nodiscard]] bool has_before(size_t end) const;
  // Those tokens; the rest waits for text that a stop string may yet cut off.
  Json take_before(size_t end);
  static constexpr size_t kAll = static_cast<size_t>(-1);

 private:
  struct Entry {
    size_t begin;  // byte of the generated text
    int64_t offset;
    std::string token;
    double logprob;
    Json top;
  };

  int64_t offset_;
  size_t bytes_ = 0;  // of all tokens so far
  std::vector<Entry> entries_;
};

}  // namespace longshore::server
