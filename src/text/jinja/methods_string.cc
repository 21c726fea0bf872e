// The methods of str.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/methods.h"
#include "text/jinja/printf.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

template <std::string (*convert)(std::string_view)>
Out converted(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(a[0].as_string().size())));
  return rt.string(convert(a[0].as_string()));
}

template <Side side>
Out stripped(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string& text = a[0].as_string();
  if (a[1].missing() || a[1].none_value()) return rt.string(std::string(strip(text, side)));
  LS_TRY(const std::string set, string_argument(a[1], ""));
  LS_TRY_VOID(rt.charge_product(static_cast<int64_t>(text.size()),
                                1 + static_cast<int64_t>(set.size()) / 16));
  const std::string_view view = set;
  return rt.string(std::string(strip(text, side, &view)));
}

// Searching from the right compares at every place.
Result<void> charge_search(Runtime& rt, std::string_view text, std::string_view part,
                           bool from_right) {
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(text.size())));
  if (!from_right) return {};
  const int64_t compared = static_cast<int64_t>(std::min(text.size(), part.size())) / 16;
  return rt.charge(static_cast<int64_t>(text.size()) / 16 * compared);
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (!is_space(next_code_point(text, at))) continue;
    if (start > begin) words.push_back(text.substr(begin, start - begin));
    begin = at;
  }
  if (begin < text.size()) words.push_back(text.substr(begin));
  return words;
}

// At most `most` cuts; the uncut rest keeps its inner and outer white space, except at the side of
// the cuts.
std::vector<std::string_view> split_on_space(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> words = words_of(text);
  const auto count = static_cast<int64_t>(words.size());
  if (most < 0 || count <= most) return words;
  const size_t cuts = static_cast<size_t>(most);
  if (from_right) {
    const std::string_view last = words[words.size() - cuts - 1];
    const auto end = static_cast<size_t>(last.data() + last.size() - text.data());
    words.erase(words.begin(), words.end() - static_cast<int64_t>(cuts) - 1);
    words[0] = text.substr(0, end);
  } else {
    const auto begin = static_cast<size_t>(words[cuts].data() - text.data());
    words.resize(cuts);
    words.push_back(text.substr(begin));
  }
  return words;
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view mark, int64_t most,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = from_right ? text.rfind(mark) : find_text(text, mark);
    if (found == std::string_view::npos) break;
    const std::string_view before = text.substr(0, found);
    const std::string_view after = text.substr(found + mark.size());
    parts.push_back(from_right ? after : before);
    text = from_right ? before : after;
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Out list_of(Runtime& rt, const std::vector<std::string_view>& parts) {
  LS_TRY_VOID(rt.charge(static_cast<int64_t>(parts.size()) * 2));
  std::vector<Value> items;
  for (const std::string_view part : parts) items.push_back(Value::string(std::string(part)));
  return rt.list(std::move(items));
}

template <bool from_right>
Out split(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string& text = a[0].as_string();
  LS_TRY(const int64_t most, integer_argument(a[2], -1));
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(text.size())));
  if (a[1].missing() || a[1].none_value())
    return list_of(rt, split_on_space(text, most, from_right));
  LS_TRY(const std::string mark, string_argument(a[1], ""));
  if (mark.empty()) return raise("empty separator");
  LS_TRY_VOID(charge_search(rt, text, mark, from_right));
  return list_of(rt, split_on(text, mark, most, from_right));
}

Out splitlines(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string_view text = a[0].as_string();
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(text.size())));
  const bool keep = flag_argument(a[1], false);
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t code = next_code_point(text, at);
    if (!is_line_break(code)) continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep ? at : start) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return list_of(rt, lines);
}

template <bool from_right>
Out partition(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string& text = a[0].as_string();
  LS_TRY(const std::string mark, string_argument(a[1], ""));
  if (mark.empty()) return raise("empty separator");
  LS_TRY_VOID(charge_search(rt, text, mark, from_right));
  const size_t found = from_right ? text.rfind(mark) : find_text(text, mark);
  const Value whole = a[0];
  const Value empty = Value::string("");
  if (found == std::string::npos)
    return from_right ? rt.tuple({empty, empty, whole}) : rt.tuple({whole, empty, empty});
  return rt.tuple({Value::string(text.substr(0, found)), Value::string(mark),
                   Value::string(text.substr(found + mark.size()))});
}

// text[start:end] by Python's optional indices; false if start lies beyond the end.
Result<bool> cut(Runtime& rt, const Bound& a, std::string_view& text, int64_t& offset) {
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(text.size())));
  LS_TRY(int64_t start, optional_integer(a[2], 0));
  if (start == 0 && (a[3].missing() || a[3].none_value())) return true;
  const int64_t length = count_code_points(text);
  LS_TRY(int64_t end, optional_integer(a[3], length));
  if (start < 0) start = std::max<int64_t>(start + length, 0);
  if (end < 0) end = std::max<int64_t>(end + length, 0);
  end = std::min(end, length);
  if (start > end) return false;
  offset = start;
  const size_t first = byte_offset(text, start);
  text = text.substr(first, byte_offset(text, end) - first);
  return true;
}

template <bool at_end>
Out has_affix(Runtime& rt, Bound& a, Args& /*rest*/) {
  std::string_view text = a[0].as_string();
  int64_t offset = 0;
  LS_TRY(const bool inside, cut(rt, a, text, offset));
  const auto matches = [&](const Value& affix) -> Result<bool> {
    LS_TRY(const std::string part, string_argument(affix, ""));
    return inside && (at_end ? text.ends_with(part) : text.starts_with(part));
  };
  if (!a[1].is(Kind::kTuple)) return matches(a[1]).map(Value::boolean);
  for (const Value& affix : a[1].as_list().items) {
    LS_TRY(const bool found, matches(affix));
    if (found) return Value::boolean(true);
  }
  return Value::boolean(false);
}

template <bool from_right, bool must>
Out find(Runtime& rt, Bound& a, Args& /*rest*/) {
  std::string_view text = a[0].as_string();
  LS_TRY(const std::string part, string_argument(a[1], ""));
  int64_t offset = 0;
  LS_TRY(const bool inside, cut(rt, a, text, offset));
  LS_TRY_VOID(charge_search(rt, text, part, from_right));
  const size_t found = from_right ? text.rfind(part) : find_text(text, part);
  if (inside && found != std::string_view::npos) {
    return Value::integer(offset + count_code_points(text.substr(0, found)));
  }
  if (must) return raise("substring not found");
  return Value::integer(-1);
}

Out count(Runtime& rt, Bound& a, Args& /*rest*/) {
  std::string_view text = a[0].as_string();
  LS_TRY(const std::string part, string_argument(a[1], ""));
  int64_t offset = 0;
  LS_TRY(const bool inside, cut(rt, a, text, offset));
  if (!inside) return Value::integer(0);
  if (part.empty()) return Value::integer(count_code_points(text) + 1);
  int64_t times = 0;
  for (size_t at = find_text(text, part); at != std::string_view::npos; ++times) {
    at = find_text(text, part, at + part.size());
  }
  return Value::integer(times);
}

Out replace(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string from, string_argument(a[1], ""));
  LS_TRY(const std::string to, string_argument(a[2], ""));
  LS_TRY(const int64_t most, integer_argument(a[3], -1));
  return replace_text(rt, a[0].as_string(), from, to, most);
}

template <bool at_end>
Out remove_affix(Runtime& rt, Bound& a, Args& /*rest*/) {
  std::string_view text = a[0].as_string();
  LS_TRY(const std::string part, string_argument(a[1], ""));
  if (at_end && text.ends_with(part)) text.remove_suffix(part.size());
  if (!at_end && text.starts_with(part)) text.remove_prefix(part.size());
  return rt.string(std::string(text));
}

Out join(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[1]));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    const Value& part = items->items[i];
    if (!part.is_string())
      return raise("sequence item {}: expected str instance, {} found", i, part.type_name());
    if (i > 0) out += a[0].as_string();
    LS_TRY_VOID(rt.charge(static_cast<int64_t>(a[0].as_string().size()) / 16 + 1));
    LS_TRY_VOID(append_text(rt, part, out));
  }
  return rt.string(std::move(out));
}

Out format(Runtime& rt, Bound& a, Args& rest) {
  return format_braces(rt, a[0].as_string(), rest);
}

using Predicate = bool (*)(uint32_t);

template <Predicate predicate>
Out all_are(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string& text = a[0].as_string();
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(text.size())));
  for (size_t at = 0; at < text.size();) {
    if (!predicate(next_code_point(text, at))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

bool is_alphanumeric(uint32_t code) {
  return is_alpha(code) || is_digit(code);
}

template <bool upper>
Out has_case(Runtime& rt, Bound& a, Args& /*rest*/) {
  return call_builtin(rt, *find_test(upper ? "upper" : "lower"), Args{{a[0]}, {}});
}

Result<std::pair<std::string, int64_t>> padding(Runtime& rt, const Bound& a) {
  LS_TRY(const int64_t width, integer_argument(a[1], 0));
  LS_TRY(std::string fill, string_argument(a[2], " "));
  if (count_code_points(fill) != 1)
    return raise("The fill character must be exactly one character long");
  LS_TRY_VOID(rt.charge_product(static_cast<int64_t>(fill.size()), width));
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(a[0].as_string().size())));
  const int64_t missing = width - count_code_points(a[0].as_string());
  return std::pair(std::move(fill), std::max<int64_t>(missing, 0));
}

std::string repeated(const std::string& text, int64_t times) {
  std::string out;
  for (int64_t i = 0; i < times; ++i) out += text;
  return out;
}

// where: '<' text first, '>' text last, '^' between.
template <char where>
Out justified(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const auto pad, padding(rt, a));
  const auto& [fill, missing] = pad;
  const int64_t width = missing + count_code_points(a[0].as_string());
  const int64_t left = where == '<'   ? 0
                       : where == '>' ? missing
                                      : missing / 2 + (missing & width & 1);
  return rt.string(repeated(fill, left) + a[0].as_string() + repeated(fill, missing - left));
}

Out zfill(Runtime& rt, Bound& a, Args& /*rest*/) {
  const std::string& text = a[0].as_string();
  Bound padded = {a[0], a[1], Value::string("0")};
  LS_TRY(const auto pad, padding(rt, padded));
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return rt.string(text.substr(0, sign) + repeated("0", pad.second) + text.substr(sign));
}

constexpr Builtin kMethods[] = {
    {"upper", "self", 1, converted<to_upper>},
    {"lower", "self", 1, converted<to_lower>},
    {"casefold", "self", 1, converted<to_lower>},
    {"title", "self", 1, converted<to_title>},
    {"capitalize", "self", 1, converted<to_capitalized>},
    {"strip", "self,chars", 1, stripped<Side::kBoth>},
    {"lstrip", "self,chars", 1, stripped<Side::kLeft>},
    {"rstrip", "self,chars", 1, stripped<Side::kRight>},
    {"split", "self,sep,maxsplit", 1, split<false>},
    {"rsplit", "self,sep,maxsplit", 1, split<true>},
    {"splitlines", "self,keepends", 1, splitlines},
    {"partition", "self,sep", 2, partition<false>},
    {"rpartition", "self,sep", 2, partition<true>},
    {"startswith", "self,prefix,start,end", 2, has_affix<false>},
    {"endswith", "self,suffix,start,end", 2, has_affix<true>},
    {"find", "self,sub,start,end", 2, find<false, false>},
    {"rfind", "self,sub,start,end", 2, find<true, false>},
    {"index", "self,sub,start,end", 2, find<false, true>},
    {"rindex", "self,sub,start,end", 2, find<true, true>},
    {"count", "self,sub,start,end", 2, count},
    {"replace", "self,old,new,count", 3, replace},
    {"removeprefix", "self,prefix", 2, remove_affix<false>},
    {"removesuffix", "self,suffix", 2, remove_affix<true>},
    {"join", "self,iterable", 2, join},
    {"format", "self,*", 1, format},
    {"isdigit", "self", 1, all_are<is_digit>},
    {"isdecimal", "self", 1, all_are<is_digit>},
    {"isnumeric", "self", 1, all_are<is_digit>},
    {"isalpha", "self", 1, all_are<is_alpha>},
    {"isalnum", "self", 1, all_are<is_alphanumeric>},
    {"isspace", "self", 1, all_are<is_space>},
    {"isupper", "self", 1, has_case<true>},
    {"islower", "self", 1, has_case<false>},
    {"ljust", "self,width,fillchar", 2, justified<'<'>},
    {"rjust", "self,width,fillchar", 2, justified<'>'>},
    {"center", "self,width,fillchar", 2, justified<'^'>},
    {"zfill", "self,width", 2, zfill},
};

}  // namespace

std::span<const Builtin> string_methods() {
  return kMethods;
}

}  // namespace longshore::text::jinja
