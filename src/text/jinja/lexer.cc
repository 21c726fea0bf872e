#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "text/jinja/string_literal.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

// Line ends as \n, without the last one.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& where)
      : source_(normalized(source)), where_(where) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) LS_TRY_VOID(next_piece());
    push(TokenType::kEnd, "end of template");
    return std::move(tokens_);
  }

 private:
  template <typename... T>
  tl::unexpected<Error> error(fmt::format_string<T...> format, T&&... args) {
    return fail(ErrorKind::kModel, "{}:{}: {}", where_, line_,
                fmt::format(format, std::forward<T>(args)...));
  }

  void push(TokenType type, std::string text, Value number = {}) {
    tokens_.push_back({type, std::move(text), line_, std::move(number)});
  }
  [[nodiscard]] bool has(std::string_view text) const { return rest().starts_with(text); }
  [[nodiscard]] std::string_view rest() const { return std::string_view(source_).substr(at_); }
  [[nodiscard]] char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  void advance(size_t bytes) {
    const auto from = source_.begin() + static_cast<int64_t>(at_);
    line_ += static_cast<int>(std::count(from, from + static_cast<int64_t>(bytes), '\n'));
    at_ += bytes;
  }
  void skip_space() {
    while (at_ < source_.size()) {
      size_t next = at_;
      if (!is_space(next_code_point(source_, next))) return;
      advance(next - at_);
    }
  }

  // The next "{{", "{%" or "{#", or the end.
  [[nodiscard]] size_t find_tag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' &&
          (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) {
        return i;
      }
    }
    return source_.size();
  }

  // What remains of data in front of a tag with this sign.
  [[nodiscard]] std::string_view stripped(std::string_view data, char sign, bool variable,
                                          bool starts_line) const {
    if (sign == '-') return strip(data, Side::kRight);
    if (sign == '+' || variable) return data;
    const size_t line = data.rfind('\n') + 1;  // npos + 1 == 0
    if (line == 0 && !starts_line) return data;
    const bool blank = strip(data.substr(line), Side::kBoth).empty();
    return blank ? data.substr(0, line) : data;
  }

  void push_data(std::string_view data) {
    if (!data.empty()) push(TokenType::kData, std::string(data));
  }

  Result<void> next_piece() {
    const size_t tag = find_tag();
    const std::string_view data = std::string_view(source_).substr(at_, tag - at_);
    if (tag == source_.size()) {
      push_data(data);
      advance(data.size());
      return {};
    }
    const char kind = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    const bool starts_line = at_ == 0 || source_[at_ - 1] == '\n';
    push_data(stripped(data, sign, kind == '{', starts_line));
    advance(data.size() + 2 + (sign != '\0' ? 1 : 0));
    if (kind == '#') return comment();
    if (kind == '%') {
      if (const size_t length = raw_begin(); length != 0) return raw(length);
      push(TokenType::kBlockBegin, "{%");
      return code(true);
    }
    push(TokenType::kVariableBegin, "{{");
    return code(false);
  }

  // Skips a block's end mark, "-" in front of it included, and the white space that it takes along.
  void finish_block(std::string_view mark) {
    if (peek() == '-') {
      advance(1 + mark.size());
      skip_space();
      return;
    }
    const bool keep = peek() == '+';
    advance(mark.size() + (keep ? 1 : 0));
    if (!keep && peek() == '\n') advance(1);
  }

  Result<void> comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return error("the comment is not closed by '#}}'");
    const bool sign = end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    advance(end - at_ - (sign ? 1 : 0));
    finish_block("#}");
    return {};
  }

  // The length of `  raw  %}` if it stands here, else 0.
  [[nodiscard]] size_t raw_begin() const {
    const std::string_view text = rest();
    std::string_view left = strip(text.substr(0, 4096), Side::kLeft);
    if (!left.starts_with("raw")) return 0;
    left = strip(left.substr(3), Side::kLeft);
    if (!left.starts_with("%}") && !left.starts_with("-%}")) return 0;
    return static_cast<size_t>(left.data() - text.data());
  }

  Result<void> raw(size_t begin) {
    const bool trim = source_[at_ + begin] == '-';
    advance(begin + (trim ? 3 : 2));
    if (trim) skip_space();
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const bool has_sign = sign == '-' || sign == '+';
      std::string_view after = std::string_view(source_).substr(tag + (has_sign ? 3 : 2));
      after = strip(after.substr(0, 4096), Side::kLeft);
      if (!after.starts_with("endraw")) continue;
      after = strip(after.substr(6), Side::kLeft);
      if (!after.starts_with("%}") && !after.starts_with("-%}") && !after.starts_with("+%}"))
        continue;
      const bool starts_line = at_ == 0 || source_[at_ - 1] == '\n';
      const auto data = std::string_view(source_).substr(at_, tag - at_);
      push_data(stripped(data, has_sign ? sign : '\0', false, starts_line));
      advance(static_cast<size_t>(after.data() - source_.data()) - at_);
      finish_block("%}");
      return {};
    }
    return error("'raw' is not closed by 'endraw'");
  }

  // The tokens up to the end of the tag.
  Result<void> code(bool block) {
    std::vector<char> open;
    while (true) {
      skip_space();
      if (at_ == source_.size()) return error("the tag is not closed by '{}'", block ? "%}" : "}}");
      if (open.empty() && at_end(block)) {
        push(block ? TokenType::kBlockEnd : TokenType::kVariableEnd,
             block ? "end of statement block" : "}}");
        close_tag(block);
        return {};
      }
      LS_TRY_VOID(token(open));
    }
  }

  [[nodiscard]] bool at_end(bool block) const {
    if (block) return has("%}") || has("-%}") || has("+%}");
    return has("}}") || has("-}}");
  }

  void close_tag(bool block) {
    if (block) return finish_block("%}");
    const bool trim = peek() == '-';
    advance(trim ? 3 : 2);
    if (trim) skip_space();
  }

  Result<void> token(std::vector<char>& open) {
    const char c = peek();
    if (digit(c)) return number();
    if (name_start(c)) return name();
    if (c == '\'' || c == '"') return string(c);
    return operation(open);
  }

  Result<void> name() {
    size_t length = 1;
    while (name_start(peek(length)) || digit(peek(length))) ++length;
    push(TokenType::kName, source_.substr(at_, length));
    advance(length);
    return {};
  }

  // The length of digits with single underscores between them, from `from` bytes ahead.
  template <typename IsDigit>
  [[nodiscard]] size_t digits(size_t from, IsDigit is_digit) const {
    size_t length = 0;
    while (is_digit(peek(from + length)) ||
           (length > 0 && peek(from + length) == '_' && is_digit(peek(from + length + 1)))) {
      ++length;
    }
    return length;
  }

  [[nodiscard]] size_t float_length() const {
    const size_t whole = digits(0, digit);
    size_t length = whole;
    if (at_ > 0 && source_[at_ - 1] == '.') return 0;
    if (peek(length) == '.' && digits(length + 1, digit) > 0)
      length += 1 + digits(length + 1, digit);
    if (peek(length) == 'e' || peek(length) == 'E') {
      const size_t sign = peek(length + 1) == '+' || peek(length + 1) == '-' ? 1 : 0;
      const size_t exponent = digits(length + 1 + sign, digit);
      if (exponent > 0) length += 1 + sign + exponent;
    }
    return length == whole ? 0 : length;
  }

  [[nodiscard]] std::string without_underscores(size_t from, size_t length) const {
    std::string text = source_.substr(at_ + from, length);
    std::erase(text, '_');
    return text;
  }

  Result<void> number() {
    if (const size_t length = float_length(); length > 0) {
      const std::string text = without_underscores(0, length);
      double value = 0;
      const auto done = std::from_chars(text.data(), text.data() + text.size(), value);
      if (done.ec != std::errc()) return error("the number {} is out of range", text);
      push(TokenType::kFloat, text, Value::real(value));
      advance(length);
      return {};
    }
    return integer();
  }

  Result<void> integer() {
    static constexpr std::array<std::pair<char, int>, 3> kBases = {{{'b', 2}, {'o', 8}, {'x', 16}}};
    int base = 10;
    for (const auto& [letter, value] : kBases) {
      if (peek() == '0' && (peek(1) | 0x20) == letter) base = value;
    }
    const auto is_digit = [base](char c) {
      if (base == 16) return digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
      return c >= '0' && c < '0' + base;
    };
    const size_t prefix = base == 10 ? 0 : 2;
    size_t length = digits(prefix, is_digit);
    if (base == 10 && peek() == '0') length = digits(0, [](char c) { return c == '0'; });
    if (length == 0) return error("a number has no digits");
    const std::string text = without_underscores(prefix, length);
    int64_t value = 0;
    const auto done = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (done.ec != std::errc()) return error("the integer {} does not fit in 64 bits", text);
    push(TokenType::kInteger, text, Value::integer(value));
    advance(prefix + length);
    return {};
  }

  Result<void> string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return error("the string is not closed by {}", quote);
    auto value = unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1));
    if (!value) return error("{}", value.error().message);
    push(TokenType::kString, std::move(*value));
    advance(end + 1 - at_);
    return {};
  }

  Result<void> operation(std::vector<char>& open) {
    static constexpr std::array<std::string_view, 6> kTwo = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view two : kTwo) {
      if (has(two)) return push_operator(2);
    }
    const char c = peek();
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      return error("unexpected character {}", rest().substr(0, byte_offset(rest(), 1)));
    }
    if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) return error("unexpected '{}'", c);
      if (open.back() != c) return error("unexpected '{}', expected '{}'", c, open.back());
      open.pop_back();
    }
    return push_operator(1);
  }

  Result<void> push_operator(size_t length) {
    push(TokenType::kOperator, source_.substr(at_, length));
    advance(length);
    return {};
  }

  std::string source_;
  std::string where_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source, const std::string& where) {
  return Lexer(source, where).run();
}

}  // namespace longshore::text::jinja
