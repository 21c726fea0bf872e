// Filters on text.
#include "text/jinja/filters.h"
#include "text/jinja/printf.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

template <std::string (*convert)(std::string_view)>
Out converted(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, to_text(rt, a[0]));
  return rt.string(convert(text));
}

Out text(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (a[0].is_string()) return a[0];
  LS_TRY(std::string out, to_text(rt, a[0]));
  return rt.string(std::move(out));
}

// jinja2's title: a word begins after white space, a hyphen or an opening bracket.
std::string title_words(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t code = next_code_point(text, at);
    const std::string_view point = text.substr(start, at - start);
    out += inside ? to_lower(point) : to_upper(point);
    inside = !is_space(code) &&
             std::string_view("-({[<").find(static_cast<char>(code < 0x80 ? code : 'a')) ==
                 std::string_view::npos;
  }
  return out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Out trim(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, to_text(rt, a[0]));
  if (a[1].missing() || a[1].none_value()) return rt.string(std::string(strip(text, Side::kBoth)));
  LS_TRY(const std::string set, string_argument(a[1], ""));
  LS_TRY_VOID(rt.charge(static_cast<int64_t>(text.size()) / 8));
  const std::string_view view = set;
  return rt.string(std::string(strip(text, Side::kBoth, &view)));
}

Out replace(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, to_text(rt, a[0]));
  LS_TRY(const std::string from, to_text(rt, a[1]));
  LS_TRY(const std::string to, to_text(rt, a[2]));
  LS_TRY(const int64_t count, optional_integer(a[3], -1));
  return replace_text(rt, text, from, to, count);
}

Out format(Runtime& rt, Bound& a, Args& rest) {
  if (!rest.keyword.empty() && !rest.positional.empty()) {
    return raise("can't handle positional and keyword arguments at the same time");
  }
  LS_TRY(const std::string pattern, to_text(rt, a[0]));
  if (rest.keyword.empty())
    return format_percent(rt, pattern, Value::tuple(std::move(rest.positional)));
  auto named = std::make_shared<Dict>();
  for (const auto& [name, value] : rest.keyword)
    LS_TRY_VOID(rt.dict_set(*named, Value::string(name), value));
  return format_percent(rt, pattern, Value::object(Kind::kDict, std::move(named)));
}

Result<std::string> indentation(Runtime& rt, const Value& width) {
  if (width.is_string()) return width.as_string();
  LS_TRY(const int64_t spaces, integer_argument(width, 4));
  LS_TRY_VOID(rt.charge_product(1, spaces));
  return std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
}

// The end of the line at `at`, and where the next one starts.
std::pair<size_t, size_t> line_end(std::string_view text, size_t at) {
  while (at < text.size()) {
    const size_t start = at;
    const uint32_t code = next_code_point(text, at);
    if (!is_line_break(code)) continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    return {start, at};
  }
  return {text.size(), text.size()};
}

Out indent(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(std::string text, string_argument(a[0], ""));
  LS_TRY(const std::string margin, indentation(rt, a[1]));
  const bool first = flag_argument(a[2], false);
  const bool blank = flag_argument(a[3], false);
  text += '\n';  // jinja2 adds it so that a final line break survives splitting
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto [end, next] = line_end(text, at);
    const bool top = at == 0;
    if (!top) out += '\n';
    if (top ? first : blank || end > at) out += margin;
    out += std::string_view(text).substr(at, end - at);
    at = next;
    LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(margin.size())));
    if (static_cast<int64_t>(out.size()) > rt.limits().output_bytes) break;
  }
  return rt.string(std::move(out));
}

Out center(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, to_text(rt, a[0]));
  LS_TRY(const int64_t width, integer_argument(a[1], 80));
  LS_TRY_VOID(rt.charge_product(1, width));
  const int64_t missing = std::max<int64_t>(width - count_code_points(text), 0);
  // Python gives the odd space to the left when the width is odd, to the right otherwise.
  const int64_t left = missing / 2 + (missing & width & 1);
  return rt.string(std::string(static_cast<size_t>(left), ' ') + text +
                   std::string(static_cast<size_t>(missing - left), ' '));
}

Out truncate(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, string_argument(a[0], ""));
  LS_TRY(const int64_t length, integer_argument(a[1], 255));
  LS_TRY(const std::string end, string_argument(a[3], "..."));
  LS_TRY(const int64_t leeway, optional_integer(a[4], 5));
  const int64_t end_length = count_code_points(end);
  if (length < end_length) return raise("expected length >= {}, got {}", end_length, length);
  if (leeway < 0) return raise("expected leeway >= 0, got {}", leeway);
  if (count_code_points(text) - length <= leeway) return rt.string(text);
  std::string kept = text.substr(0, byte_offset(text, length - end_length));
  if (!flag_argument(a[2], false)) {
    const size_t space = kept.rfind(' ');
    if (space != std::string::npos) kept.resize(space);
  }
  return rt.string(kept + end);
}

Out wordcount(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string text, to_text(rt, a[0]));
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code_point(text, at);
    const bool word = is_alpha(code) || is_digit(code) || code == '_';
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::integer(words);
}

Out tojson(Runtime& rt, Bound& a, Args& /*rest*/) {
  JsonStyle style;
  style.ensure_ascii = flag_argument(a[1], false);
  style.sort_keys = flag_argument(a[4], false);
  style.multiline = !a[2].missing() && !a[2].none_value();
  if (style.multiline) {
    LS_TRY(style.indent, indentation(rt, a[2]));
    style.item_separator = ',';
  }
  if (!a[3].missing() && !a[3].none_value()) {
    LS_TRY(const Items pair, rt.iterate(a[3]));
    if (pair->items.size() != 2) return raise("separators takes two strings");
    LS_TRY(style.item_separator, string_argument(pair->items[0], ""));
    LS_TRY(style.key_separator, string_argument(pair->items[1], ""));
  }
  LS_TRY(std::string out, to_json(rt, a[0], style));
  return rt.string(std::move(out));
}

constexpr Builtin kFilters[] = {
    {"upper", "s", 1, converted<to_upper>},
    {"lower", "s", 1, converted<to_lower>},
    {"capitalize", "s", 1, converted<to_capitalized>},
    {"title", "s", 1, converted<title_words>},
    {"escape", "s", 1, converted<escaped>},
    {"e", "s", 1, converted<escaped>},
    {"forceescape", "s", 1, converted<escaped>},
    {"safe", "s", 1, text},
    {"string", "s", 1, text},
    {"trim", "value,chars", 1, trim},
    {"replace", "s,old,new,count", 3, replace},
    {"format", "value,*", 1, format},
    {"indent", "s,width,first,blank", 1, indent},
    {"center", "value,width", 1, center},
    {"truncate", "s,length,killwords,end,leeway", 1, truncate},
    {"wordcount", "s", 1, wordcount},
    {"tojson", "x,ensure_ascii,indent,separators,sort_keys", 1, tojson},
};

}  // namespace

std::span<const Builtin> string_filters() {
  return kFilters;
}

Result<Value> replace_text(Runtime& rt, const std::string& text, const std::string& from,
                           const std::string& to, int64_t count) {
  std::string out;
  size_t at = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    // An empty pattern matches in front of every code point and at the end.
    size_t found = from.empty() ? at : find_text(text, from, at);
    if (from.empty() && done > 0) {
      if (at >= text.size()) break;
      next_code_point(text, found);
    }
    if (found == std::string::npos) break;
    out.append(text, at, found - at);
    out += to;
    at = found + from.size();
    LS_TRY_VOID(rt.charge(static_cast<int64_t>(to.size()) / 16 + 1));
    if (static_cast<int64_t>(out.size()) > rt.limits().output_bytes) break;
  }
  out.append(text, at);
  return rt.string(std::move(out));
}

}  // namespace longshore::text::jinja
