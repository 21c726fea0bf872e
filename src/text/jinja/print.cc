#include "text/jinja/print.h"

#include <array>
#include <charconv>
#include <cmath>

#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

void append_string_repr(const std::string& text, std::string& out) {
  const bool single = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = single ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code_point(text, at);
    if (code == static_cast<uint8_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (is_printable(code)) {
      append_code_point(out, code);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", code);
    } else {
      out += code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
}

Result<void> append_items(Runtime& rt, const std::vector<Value>& items, std::string& out) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) out += ", ";
    first = false;
    LS_TRY_VOID(append_repr(rt, item, out));
  }
  return {};
}

Result<void> append_entries(Runtime& rt, const Dict& dict, std::string& out) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) out += ", ";
    first = false;
    LS_TRY_VOID(append_repr(rt, key, out));
    out += ": ";
    LS_TRY_VOID(append_repr(rt, value, out));
  }
  out += '}';
  return {};
}

Result<void> append_sequence(Runtime& rt, const Value& value, std::string& out) {
  const bool list = value.is(Kind::kList);
  const auto& items = value.as_list().items;
  out += list ? '[' : '(';
  LS_TRY_VOID(append_items(rt, items, out));
  if (!list && items.size() == 1) out += ',';
  out += list ? ']' : ')';
  return {};
}

Result<void> append_view(Runtime& rt, const Value& value, std::string& out) {
  static constexpr std::array<std::string_view, 3> kNames = {"dict_keys", "dict_values",
                                                             "dict_items"};
  out += kNames[static_cast<size_t>(value.as<View>().part)];
  out += "([";
  LS_TRY(const Items items, rt.iterate(value));
  LS_TRY_VOID(append_items(rt, items->items, out));
  out += "])";
  return {};
}

class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonStyle& style) : rt_(rt), style_(style) {}

  Result<void> write(const Value& value) {
    LS_TRY_VOID(rt_.charge(1));
    LS_TRY_VOID(check_size(0));
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return {};
      case Kind::kBool:
        out_ += value.as_bool() ? "true" : "false";
        return {};
      case Kind::kInt:
      case Kind::kUint:
        return append_text(rt_, value, out_);
      case Kind::kFloat:
        out_ += number(value.as_double());
        return {};
      case Kind::kString:
        return string(value.as_string());
      case Kind::kList:
      case Kind::kTuple:
        return array(value.as_list().items);
      case Kind::kDict:
        return object(value.as_dict());
      default:
        return raise("Object of type {} is not JSON serializable", value.type_name());
    }
  }
  std::string take() { return std::move(out_); }

 private:
  Result<void> check_size(size_t more) {
    if (static_cast<int64_t>(out_.size() + more) <= rt_.limits().output_bytes) return {};
    return rt_.charge_bytes(static_cast<int64_t>(out_.size() + more));
  }

  static std::string number(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_repr(d);
  }

  Result<void> string(const std::string& text) {
    LS_TRY_VOID(rt_.charge_bytes(static_cast<int64_t>(text.size())));
    LS_TRY_VOID(check_size(text.size()));
    out_ += '"';
    for (size_t at = 0; at < text.size();) character(next_code_point(text, at));
    out_ += '"';
    return {};
  }

  void character(uint32_t code) {
    static constexpr std::string_view kNamed = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kLetters = "\"\\nrtbf";
    const size_t named =
        code < 0x80 ? kNamed.find(static_cast<char>(code)) : std::string_view::npos;
    if (named != std::string_view::npos) {
      out_ += '\\';
      out_ += kLetters[named];
    } else if (code >= 0x20 && (code < 0x7F || !style_.ensure_ascii)) {
      append_code_point(out_, code);
    } else if (code < 0x10000) {
      out_ += fmt::format("\\u{:04x}", code);
    } else {
      const uint32_t offset = code - 0x10000;
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF));
    }
  }

  Result<void> separator(bool first) {
    if (!first) out_ += style_.item_separator;
    return line();
  }

  // A new line at the current level, where there are lines.
  Result<void> line() {
    if (!style_.multiline) return {};
    LS_TRY_VOID(rt_.charge_product(static_cast<int64_t>(style_.indent.size()), level_));
    out_ += '\n';
    for (int i = 0; i < level_; ++i) out_ += style_.indent;
    return check_size(0);
  }

  Result<void> array(const std::vector<Value>& items) {
    if (items.empty()) {
      out_ += "[]";
      return {};
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      LS_TRY_VOID(separator(i == 0));
      LS_TRY_VOID(write(items[i]));
    }
    --level_;
    LS_TRY_VOID(line());
    out_ += ']';
    return {};
  }

  static Result<std::string> key_text(Runtime& rt, const Value& key) {
    if (key.is(Kind::kFloat)) return number(key.as_double());
    if (key.is(Kind::kBool)) return std::string(key.as_bool() ? "true" : "false");
    if (key.none_value()) return std::string("null");
    if (key.is_string() || key.is_number()) return to_text(rt, key);
    return raise("keys must be str, int, float, bool or None, not {}", key.type_name());
  }

  Result<void> object(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) LS_TRY_VOID(sort(entries));
    if (entries.empty()) {
      out_ += "{}";
      return {};
    }
    out_ += '{';
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      LS_TRY_VOID(separator(i == 0));
      LS_TRY(const std::string key, key_text(rt_, entries[i]->first));
      LS_TRY_VOID(string(key));
      out_ += style_.key_separator;
      LS_TRY_VOID(write(entries[i]->second));
    }
    --level_;
    LS_TRY_VOID(line());
    out_ += '}';
    return {};
  }

  Result<void> sort(std::vector<const Dict::Entry*>& entries) {
    bool strings = true;
    bool numbers = true;
    for (const auto* entry : entries) {
      strings &= entry->first.is_string();
      numbers &= entry->first.is_number();
    }
    if (!strings && !numbers)
      return raise("the keys of a dict cannot be sorted: their types differ");
    std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
      return strings ? a->first.as_string() < b->first.as_string()
                     : a->first.as_double() < b->first.as_double();
    });
    return {};
  }

  Runtime& rt_;
  const JsonStyle& style_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const double size = std::fabs(d);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto done = std::to_chars(buffer.data(), buffer.data() + buffer.size(), d, format);
  std::string out(buffer.data(), done.ptr);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

Result<void> append_repr(Runtime& rt, const Value& value, std::string& out) {
  LS_TRY_VOID(rt.charge(1));
  if (static_cast<int64_t>(out.size()) > rt.limits().output_bytes) {
    return rt.charge_bytes(static_cast<int64_t>(out.size()));
  }
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      out += "Undefined";
      return {};
    case Kind::kNone:
      out += "None";
      return {};
    case Kind::kBool:
      out += value.as_bool() ? "True" : "False";
      return {};
    case Kind::kInt:
      out += fmt::format("{}", value.as_int());
      return {};
    case Kind::kUint:
      out += fmt::format("{}", value.as_uint());
      return {};
    case Kind::kFloat:
      out += float_repr(value.as_double());
      return {};
    case Kind::kString:
      LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(value.as_string().size())));
      append_string_repr(value.as_string(), out);
      return {};
    case Kind::kList:
    case Kind::kTuple:
      return append_sequence(rt, value, out);
    case Kind::kDict:
      return append_entries(rt, value.as_dict(), out);
    case Kind::kView:
      return append_view(rt, value, out);
    case Kind::kRange: {
      const auto& range = value.as<Range>();
      out += fmt::format("range({}, {}", range.start, range.stop);
      out += range.step == 1 ? ")" : fmt::format(", {})", range.step);
      return {};
    }
    default:
      out += fmt::format("<{} object>", value.type_name());
      return {};
  }
}

Result<void> append_text(Runtime& rt, const Value& value, std::string& out) {
  if (value.undefined() || value.missing()) return {};
  if (!value.is_string()) return append_repr(rt, value, out);
  const auto size = static_cast<int64_t>(out.size() + value.as_string().size());
  if (size > rt.limits().output_bytes) return rt.charge_bytes(size);
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(value.as_string().size())));
  out += value.as_string();
  return {};
}

Result<std::string> to_text(Runtime& rt, const Value& value) {
  std::string out;
  LS_TRY_VOID(append_text(rt, value, out));
  return out;
}

Result<std::string> to_json(Runtime& rt, const Value& value, const JsonStyle& style) {
  JsonWriter writer(rt, style);
  LS_TRY_VOID(writer.write(value));
  return writer.take();
}

}  // namespace longshore::text::jinja
