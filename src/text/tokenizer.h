// Byte-level BPE from a Hugging Face tokenizer.json, exact against the `tokenizers` library for the
// structure that GLM-4 and GLM-5 use: added tokens, Split by a regular expression, ByteLevel, BPE.
// Other structures are refused by name.
//
// Threading: immutable after load; any thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace longshore::text {

class Tokenizer {
 public:
  // Errors: kModel, one line naming the file, the key and the remedy.
  static Result<Tokenizer> load(const std::string& path);
  static Result<Tokenizer> parse(std::string_view json, const std::string& where);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Added tokens inside the text are recognised; nothing is added. Error kUsage: invalid UTF-8,
  // with the byte offset.
  [[nodiscard]] Result<std::vector<int32_t>> encode(std::string_view text) const;
  // The bytes of the ids, invalid UTF-8 replaced by U+FFFD as `tokenizers` does. Unknown ids (< 0
  // or >= vocab_size) decode to nothing.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // The exact bytes of one token (may be part of a character); empty for an unknown id.
  [[nodiscard]] std::string_view bytes(int32_t id) const;
  // No token stands for more bytes of a text: n tokens encode at most n times as many. Where added
  // tokens take the white space around them: INT64_MAX.
  [[nodiscard]] int64_t max_token_bytes() const;
  [[nodiscard]] bool is_special(int32_t id) const;
  [[nodiscard]] bool is_added(int32_t id) const;
  // The id of a whole token by its text (added tokens first), "<|user|>" say.
  [[nodiscard]] std::optional<int32_t> id_of(std::string_view token) const;
  [[nodiscard]] int32_t vocab_size() const;  // highest id + 1

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::text
