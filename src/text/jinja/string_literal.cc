#include "text/jinja/string_literal.h"

#include <charconv>

#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

// The character of a one-letter escape, or 0.
char simple_escape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return '\0';
  }
}

// Appends the code point of `digits` hexadecimal digits at `at`, and moves past them.
Result<void> hexadecimal(std::string_view literal, size_t& at, size_t digits, std::string& out) {
  uint32_t code = 0;
  const std::string_view text = literal.substr(at, digits);
  const auto done = std::from_chars(text.data(), text.data() + text.size(), code, 16);
  if (text.size() < digits || done.ec != std::errc() || done.ptr != text.data() + text.size() ||
      code > 0x10FFFF) {
    return fail(ErrorKind::kModel, "a string has a broken \\x, \\u or \\U escape");
  }
  at += digits;
  if (code >= 0xD800 && code <= 0xDFFF)
    code = 0xFFFD;  // a lone surrogate cannot be written as UTF-8
  append_code_point(out, code);
  return {};
}

void octal(std::string_view literal, size_t& at, std::string& out) {
  uint32_t code = 0;
  for (int i = 0; i < 3 && at < literal.size() && literal[at] >= '0' && literal[at] <= '7'; ++i) {
    code = code * 8 + static_cast<uint32_t>(literal[at++] - '0');
  }
  append_code_point(out, code);
}

Result<void> escape(std::string_view literal, size_t& at, std::string& out) {
  const char c = literal[at];
  if (c >= '0' && c <= '7') {
    octal(literal, at, out);
    return {};
  }
  ++at;
  if (c == 'x') return hexadecimal(literal, at, 2, out);
  if (c == 'u') return hexadecimal(literal, at, 4, out);
  if (c == 'U') return hexadecimal(literal, at, 8, out);
  if (c == 'N') return fail(ErrorKind::kModel, "the escape \\N{{...}} is not supported");
  if (c == '\n') return {};
  if (const char simple = simple_escape(c); simple != '\0') {
    out += simple;
  } else {
    out += '\\';
    out += c;
  }
  return {};
}

}  // namespace

Result<std::string> unescape(std::string_view literal) {
  std::string out;
  out.reserve(literal.size());
  for (size_t at = 0; at < literal.size();) {
    if (literal[at] != '\\' || at + 1 == literal.size()) {
      out += literal[at++];
      continue;
    }
    ++at;
    LS_TRY_VOID(escape(literal, at, out));
  }
  return out;
}

}  // namespace longshore::text::jinja
