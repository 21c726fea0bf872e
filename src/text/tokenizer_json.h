// What a tokenizer.json says, checked: the structure that Tokenizer runs.
//
// Source of the format: the JSON that Hugging Face `tokenizers` writes. Threading: free functions
// without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/bpe.h"

namespace longshore::text {

struct AddedTokenSpec {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // only between characters that are not of a word
  bool normalized = false;   // looked for after the others
};

struct TokenizerSpec {
  std::vector<std::pair<std::string, int32_t>>
      vocab;  // token text as in the file, byte-level alphabet
  std::vector<std::pair<std::string, int32_t>>
      vocab_bytes;  // the same in bytes; without entries beyond the alphabet
  std::vector<Bpe::Merge> merges;
  bool ignore_merges = false;
  std::vector<std::string> split_patterns;  // applied one after the other
  std::vector<AddedTokenSpec> added_tokens;
};

// Errors: kModel, one line with `where` (the file) and the key.
Result<TokenizerSpec> parse_tokenizer_json(std::string_view json, const std::string& where);

// The bytes that a token of GPT-2's byte-level alphabet stands for; nothing if a character is not
// of the alphabet. Source: bytes_to_unicode of GPT-2: printable Latin-1 stands for itself, the
// other 68 bytes for U+0100 upward.
[[nodiscard]] bool byte_level_bytes(std::string_view token, std::string& bytes);

}  // namespace longshore::text
