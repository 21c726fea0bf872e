#include "text/jinja/printf.h"

#include <cmath>
#include <optional>

#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

constexpr int64_t kMaxPrecision = 300;

// One conversion, common to both ways: %-10.3f and {:<10.3f}.
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ = or the type's own
  char sign = '-';
  bool alternate = false;
  bool grouping = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

bool digit(char c) {
  return c >= '0' && c <= '9';
}

Result<int64_t> read_number(std::string_view text, size_t& at) {
  int64_t value = 0;
  for (; at < text.size() && digit(text[at]); ++at) {
    value = value * 10 + (text[at] - '0');
    if (value > 1'000'000'000) return raise("a width or precision is too large");
  }
  return value;
}

Result<std::string> pad(Runtime& rt, const Spec& spec, std::string text, char own_align,
                        size_t sign_length) {
  const int64_t missing = spec.width - count_code_points(text);
  if (missing <= 0) return text;
  LS_TRY_VOID(rt.charge_product(static_cast<int64_t>(spec.fill.size()), spec.width));
  const char align = spec.align == '\0' ? own_align : spec.align;
  const int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  const auto fill = [&](int64_t times) {
    std::string out;
    for (int64_t i = 0; i < times; ++i) out += spec.fill;
    return out;
  };
  if (align == '=') return text.substr(0, sign_length) + fill(missing) + text.substr(sign_length);
  return fill(left) + text + fill(missing - left);
}

std::string grouped(std::string digits) {
  const size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string sign_text(bool negative, char sign) {
  if (negative) return "-";
  return sign == '-' ? "" : std::string(1, sign);
}

std::string magnitude_in_base(uint64_t magnitude, const Spec& spec) {
  switch (spec.type) {
    case 'x':
      return (spec.alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X':
      return (spec.alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o':
      return (spec.alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b':
      return (spec.alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    default:
      return fmt::format("{}", magnitude);
  }
}

Result<std::string> integer_text(Runtime& rt, const Spec& spec, int64_t value) {
  const uint64_t magnitude =
      value < 0 ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value);
  std::string digits = magnitude_in_base(magnitude, spec);
  if (spec.grouping) digits = grouped(std::move(digits));
  const std::string sign = sign_text(value < 0, spec.sign);
  return pad(rt, spec, sign + digits, '>', sign.size());
}

Result<std::string> float_text(Runtime& rt, const Spec& spec, double value) {
  if (spec.precision > kMaxPrecision) return raise("the precision {} is too large", spec.precision);
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  const double size = std::fabs(value);
  std::string digits;
  switch (spec.type) {
    case 'e':
    case 'E':
      digits = fmt::format(fmt::runtime(spec.type == 'e' ? "{:.{}e}" : "{:.{}E}"), size, precision);
      break;
    case 'g':
    case 'G':
      digits = fmt::format(fmt::runtime(spec.type == 'g' ? "{:.{}g}" : "{:.{}G}"), size,
                           std::max(precision, 1));
      break;
    case '%':
      digits = fmt::format("{:.{}f}%", size * 100, precision);
      break;
    case '\0':
      digits = spec.precision < 0 ? float_repr(size)
                                  : fmt::format("{:.{}g}", size, std::max(precision, 1));
      break;
    default:
      digits = fmt::format("{:.{}f}", size, precision);
  }
  if (spec.grouping) digits = grouped(std::move(digits));
  const std::string sign = sign_text(std::signbit(value), spec.sign);
  return pad(rt, spec, sign + digits, '>', sign.size());
}

Result<std::string> string_text(Runtime& rt, const Spec& spec, std::string text) {
  if (spec.precision >= 0) text.resize(byte_offset(text, spec.precision));
  return pad(rt, spec, std::move(text), '<', 0);
}

class PercentFormatter {
 public:
  PercentFormatter(Runtime& rt, const std::string& format, const Value& arguments)
      : rt_(rt), format_(format), arguments_(arguments) {}

  Result<Value> run() {
    std::string out;
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out += format_[at_++];
        continue;
      }
      ++at_;
      LS_TRY(const std::string text, conversion());
      out += text;
      if (static_cast<int64_t>(out.size()) > rt_.limits().output_bytes)
        return rt_.string(std::move(out));
    }
    if (arguments_left()) {
      return raise("not all arguments converted during string formatting");
    }
    return rt_.string(std::move(out));
  }

 private:
  // Python lets values with items go unused, except tuples and strings.
  [[nodiscard]] bool arguments_left() const {
    switch (arguments_.kind()) {
      case Kind::kTuple:
        return next_ < arguments_.as_list().items.size();
      case Kind::kDict:
      case Kind::kList:
      case Kind::kRange:
      case Kind::kUndefined:
        return false;
      default:
        return next_ == 0;
    }
  }

  Result<Value> next_argument() {
    if (arguments_.is(Kind::kTuple)) {
      const auto& items = arguments_.as_list().items;
      if (next_ >= items.size()) return raise("not enough arguments for format string");
      return items[next_++];
    }
    if (next_++ > 0) return raise("not enough arguments for format string");
    return arguments_;
  }

  Result<Value> named_argument() {
    const size_t end = format_.find(')', at_);
    if (end == std::string::npos) return raise("incomplete format key");
    const std::string name = format_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    if (!arguments_.is(Kind::kDict)) return raise("format requires a mapping");
    const Value* found = arguments_.as_dict().find(name);
    if (found == nullptr) return raise("the format names the missing key '{}'", name);
    return *found;
  }

  void flags(Spec& spec) {
    for (; at_ < format_.size(); ++at_) {
      const char c = format_[at_];
      if (c == '-') {
        spec.align = '<';
      } else if (c == '+' || (c == ' ' && spec.sign != '+')) {
        spec.sign = c;
      } else if (c == '0') {
        spec.fill = '0';
      } else if (c == '#') {
        spec.alternate = true;
      } else if (c != ' ') {
        return;
      }
    }
  }

  Result<int64_t> number_or_star() {
    if (at_ >= format_.size() || format_[at_] != '*') return read_number(format_, at_);
    ++at_;
    LS_TRY(const Value value, next_argument());
    if (!value.is_integer() || value.as_int() < 0 || value.as_int() > 1'000'000'000)
      return raise("* wants int");
    return value.as_int();
  }

  Result<std::string> conversion() {
    Spec spec;
    std::optional<Value> named;
    if (at_ < format_.size() && format_[at_] == '(') {
      LS_TRY(named, named_argument());
    }
    flags(spec);
    LS_TRY(spec.width, number_or_star());
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      LS_TRY(spec.precision, number_or_star());
    }
    if (at_ >= format_.size()) return raise("incomplete format");
    spec.type = format_[at_++];
    if (spec.type == '%') return std::string("%");
    if (named) return convert(spec, *named);
    LS_TRY(const Value value, next_argument());
    return convert(spec, value);
  }

  Result<std::string> convert(Spec& spec, const Value& value) {
    const bool zero = spec.fill == "0";
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a':
      case 'c': {
        spec.fill = ' ';
        if (spec.align == '\0') spec.align = '>';
        std::string text;
        LS_TRY_VOID(spec.type == 's' || spec.type == 'c' ? append_text(rt_, value, text)
                                                         : append_repr(rt_, value, text));
        return string_text(rt_, spec, std::move(text));
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return convert_integer(spec, value, zero);
      case 'f':
      case 'F':
      case 'e':
      case 'E':
      case 'g':
      case 'G':
        LS_TRY_VOID(refuse_undefined(value));
        if (!value.is_number()) return raise("must be real number, not {}", value.type_name());
        adjust(spec, zero);
        return float_text(rt_, spec, value.as_double());
      default:
        return raise("unsupported format character '{}'", spec.type);
    }
  }

  static void adjust(Spec& spec, bool zero) {
    if (spec.align == '<') spec.fill = ' ';
    if (zero && spec.align == '\0') spec.align = '=';
  }

  Result<std::string> convert_integer(Spec& spec, const Value& value, bool zero) {
    LS_TRY_VOID(refuse_undefined(value));
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    adjust(spec, zero);
    if (value.is_integer()) return integer_text(rt_, spec, value.as_int());
    if (!decimal || !value.is(Kind::kFloat) || !(std::fabs(value.as_double()) < 9e18)) {
      return raise("%{} format: a number is required, not {}", spec.type, value.type_name());
    }
    return integer_text(rt_, spec, static_cast<int64_t>(value.as_double()));
  }

  Runtime& rt_;
  const std::string& format_;
  const Value& arguments_;
  size_t at_ = 0;
  size_t next_ = 0;
};

Result<Spec> parse_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  size_t after = 0;
  if (!text.empty()) next_code_point(text, after);
  const auto aligns = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (after < text.size() && aligns(text[after])) {
    spec.fill = text.substr(0, after);
    spec.align = text[after];
    at = after + 1;
  } else if (!text.empty() && aligns(text[0])) {
    spec.align = text[at++];
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' '))
    spec.sign = text[at++];
  if (at < text.size() && text[at] == '#') spec.alternate = (++at, true);
  if (at < text.size() && text[at] == '0') {
    if (spec.align == '\0') spec.fill = '0';
    if (spec.align == '\0') spec.align = '=';
    ++at;
  }
  LS_TRY(spec.width, read_number(text, at));
  if (at < text.size() && text[at] == ',') spec.grouping = (++at, true);
  if (at < text.size() && text[at] == '.') {
    LS_TRY(spec.precision, read_number(text, ++at));
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) return raise("invalid format specifier '{}'", text);
  return spec;
}

Result<std::string> format_value(Runtime& rt, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return to_text(rt, value);
  LS_TRY(Spec spec, parse_spec(spec_text));
  const bool as_float =
      spec.type != '\0' && std::string_view("fFeEgG%").find(spec.type) != std::string_view::npos;
  if (value.is(Kind::kFloat) || (value.is_integer() && as_float)) {
    if (spec.type != '\0' && !as_float)
      return raise("unknown format code '{}' for float", spec.type);
    return float_text(rt, spec, value.as_double());
  }
  if (value.is_integer()) {
    if (spec.type != '\0' && std::string_view("dxXob").find(spec.type) == std::string_view::npos) {
      return raise("unknown format code '{}' for int", spec.type);
    }
    return integer_text(rt, spec, value.as_int());
  }
  if (!value.is_string())
    return raise("unsupported format string passed to {}.__format__", value.type_name());
  if ((spec.type != '\0' && spec.type != 's') || spec.align == '=')
    return raise("invalid format for str");
  return string_text(rt, spec, value.as_string());
}

class BraceFormatter {
 public:
  BraceFormatter(Runtime& rt, const std::string& format, const Args& args)
      : rt_(rt), format_(format), args_(args) {}

  Result<Value> run() {
    std::string out;
    for (size_t at = 0; at < format_.size();) {
      const char c = format_[at++];
      if (c != '{' && c != '}') {
        out += c;
      } else if (at < format_.size() && format_[at] == c) {
        out += c;
        ++at;
      } else if (c == '}') {
        return raise("single '}}' encountered in format string");
      } else {
        LS_TRY(const std::string text, field(at));
        out += text;
      }
      if (static_cast<int64_t>(out.size()) > rt_.limits().output_bytes) break;
    }
    return rt_.string(std::move(out));
  }

 private:
  Result<std::string> field(size_t& at) {
    const size_t end = format_.find('}', at);
    if (end == std::string::npos) return raise("expected '}}' before end of string");
    std::string_view text = std::string_view(format_).substr(at, end - at);
    if (text.find('{') != std::string_view::npos)
      return raise("nested fields in a format are not supported");
    at = end + 1;
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string_view spec = text.substr(std::min(colon + 1, text.size()));
    text = text.substr(0, colon);
    const size_t bang = std::min(text.find('!'), text.size());
    const std::string_view conversion = text.substr(bang);
    LS_TRY(Value value, look_up(text.substr(0, bang)));
    if (conversion == "!r") {
      std::string repr;
      LS_TRY_VOID(append_repr(rt_, value, repr));
      value = Value::string(std::move(repr));
    } else if (conversion == "!s") {
      LS_TRY(std::string plain, to_text(rt_, value));
      value = Value::string(std::move(plain));
    } else if (!conversion.empty()) {
      return raise("unknown conversion in a format string");
    }
    return format_value(rt_, value, spec);
  }

  Result<Value> look_up(std::string_view path) {
    const size_t end = std::min(path.find_first_of(".["), path.size());
    LS_TRY(Value value, base(path.substr(0, end)));
    path.remove_prefix(end);
    while (!path.empty()) {
      LS_TRY(value, path[0] == '.' ? dotted(value, path) : bracketed(value, path));
    }
    return value;
  }

  Result<Value> dotted(const Value& value, std::string_view& path) {
    const size_t end = std::min(path.find_first_of(".[", 1), path.size());
    const std::string_view name = path.substr(1, end - 1);
    path.remove_prefix(end);
    return attribute(rt_, value, name);
  }

  Result<Value> bracketed(const Value& value, std::string_view& path) {
    const size_t end = path.find(']');
    if (path[0] != '[' || end == std::string_view::npos)
      return raise("a field of a format string is broken");
    const std::string_view name = path.substr(1, end - 1);
    path.remove_prefix(end + 1);
    if (!name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos) {
      size_t at = 0;
      LS_TRY(const int64_t index, read_number(name, at));
      return item(rt_, value, Value::integer(index));
    }
    return item(rt_, value, Value::string(std::string(name)));
  }

  Result<Value> base(std::string_view name) {
    if (name.empty() || digit(name[0])) {
      size_t at = 0;
      LS_TRY(const int64_t number, read_number(name, at));
      const size_t index = name.empty() ? next_++ : static_cast<size_t>(number);
      if (index < args_.positional.size()) return args_.positional[index];
      return raise("replacement index {} out of range for positional args tuple", index);
    }
    for (const auto& [key, value] : args_.keyword) {
      if (key == name) return value;
    }
    return raise("the format names the missing argument '{}'", name);
  }

  Runtime& rt_;
  const std::string& format_;
  const Args& args_;
  size_t next_ = 0;
};

}  // namespace

Result<Value> format_percent(Runtime& rt, const std::string& format, const Value& arguments) {
  return PercentFormatter(rt, format, arguments).run();
}

Result<Value> format_braces(Runtime& rt, const std::string& format, const Args& args) {
  return BraceFormatter(rt, format, args).run();
}

}  // namespace longshore::text::jinja
