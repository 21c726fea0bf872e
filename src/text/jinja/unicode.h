// UTF-8 strings seen as sequences of code points, with Python's notions of space, case and letters.
//
// An invalid byte counts as one code point, U+DC80 + (byte - 0x80) (Python's surrogateescape), and
// is written back as it came. Differences from Python: lower() has no final sigma; only the decimal
// digits 0-9 count as digits.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longshore::text::jinja {

// The code point at `at` (at < text.size()); moves `at` past it.
uint32_t next_code_point(std::string_view text, size_t& at);
void append_code_point(std::string& out, uint32_t code);
[[nodiscard]] int64_t count_code_points(std::string_view text);
// The byte offset of code point `index`, index in [0, count].
[[nodiscard]] size_t byte_offset(std::string_view text, int64_t index);
[[nodiscard]] std::vector<std::string_view> split_code_points(std::string_view text);

[[nodiscard]] bool is_space(uint32_t code);
[[nodiscard]] bool is_alpha(uint32_t code);
[[nodiscard]] bool is_digit(uint32_t code);
[[nodiscard]] bool is_cased(uint32_t code);
[[nodiscard]] bool is_upper(uint32_t code);
[[nodiscard]] bool is_lower(uint32_t code);
[[nodiscard]] bool is_printable(uint32_t code);
[[nodiscard]] bool is_line_break(uint32_t code);

[[nodiscard]] std::string to_upper(std::string_view text);
[[nodiscard]] std::string to_lower(std::string_view text);
[[nodiscard]] std::string to_title(
    std::string_view text);  // str.title(): every run of cased characters
[[nodiscard]] std::string to_capitalized(
    std::string_view text);  // first one to title case, the rest lower

// text.find(part, from) in linear time, whatever the texts are.
[[nodiscard]] size_t find_text(std::string_view text, std::string_view part, size_t from = 0);

enum class Side : uint8_t { kLeft, kRight, kBoth };
// Without `set` strips white space, else the code points in *set.
[[nodiscard]] std::string_view strip(std::string_view text, Side side,
                                     const std::string_view* set = nullptr);

}  // namespace longshore::text::jinja
