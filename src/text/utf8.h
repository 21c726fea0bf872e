// UTF-8: decoding, validation, and the lossy conversion that Rust's String::from_utf8_lossy makes.
//
// Source: the Unicode standard, table 3-7 (well-formed byte sequences) and section 3.9 (one U+FFFD
// for each maximal subpart of an ill-formed sequence). Threading: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longshore::text {

struct Utf8Step {
  enum class Status {
    kValid,       // a character of `length` bytes
    kInvalid,     // a maximal ill-formed subpart of `length` bytes
    kIncomplete,  // the text ends inside a character that is well-formed so far
  };
  Status status;
  size_t length;
  uint32_t code_point;  // of a valid character
};

// The character or ill-formed subpart at text[at], at < text.size().
[[nodiscard]] Utf8Step utf8_step(std::string_view text, size_t at);

// The offset of the first byte that is not part of a well-formed character.
[[nodiscard]] std::optional<size_t> find_invalid_utf8(std::string_view text);

void append_utf8(std::string& out, uint32_t code_point);

// Appends `bytes` to `out`, every ill-formed subpart as U+FFFD. Returns the number of bytes taken:
// with `last` false an unfinished character at the end is left for later.
size_t append_utf8_lossy(std::string& out, std::string_view bytes, bool last);

// The characters with the Unicode property White_Space (Rust's char::is_whitespace).
[[nodiscard]] bool is_white_space(uint32_t code_point);

}  // namespace longshore::text
