// Ids to text while they are generated: never half a character.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace longshore::text {

// Threading: one stream, one thread. The tokenizer outlives it. The concatenation of all push()
// results and finish() equals Tokenizer::decode of all ids.
class StreamDetokenizer {
 public:
  explicit StreamDetokenizer(const Tokenizer& tokenizer, bool skip_special = false);
  // Adds a token and returns the text that is complete now: whole UTF-8 characters only.
  std::string push(int32_t id);
  // The end: an unfinished character becomes U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // bytes of an unfinished character
};

}  // namespace longshore::text
