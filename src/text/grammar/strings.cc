#include "text/grammar/strings.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "base/check.h"
#include "text/grammar/nfa.h"
#include "text/grammar/regex.h"

namespace longshore::text {
namespace {

constexpr std::array<std::string_view, 6> kTags = {"<tool_call>", "</tool_call>", "<arg_key>",
                                                   "</arg_key>",  "<arg_value>",  "</arg_value>"};

Machine made_of_pattern(const std::string& pattern) {
  constexpr size_t kLimit = 100'000;
  auto made = compile_pattern(pattern, kLimit);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return std::move(*made);
}

Machine make_any_text() {
  Nfa nfa;
  const uint32_t start = nfa.add_state();
  nfa.code_points(start, start, complement({}));
  auto made = nfa.determinise(start, start, 100);
  LS_CHECK(made.has_value());
  return std::move(*made);
}

// How much of a tag a text ends with: states are the tags' beginnings (Aho and Corasick 1975).
class TagWatch {
 public:
  static const TagWatch& get() {
    static const TagWatch watch;
    return watch;
  }
  // Nothing: a tag is whole.
  [[nodiscard]] std::optional<uint32_t> next(uint32_t state, uint8_t byte) const {
    const uint32_t to = table_[state][byte];
    if (whole_[to]) return std::nullopt;
    return to;
  }

 private:
  TagWatch() {
    std::map<std::string, uint32_t, std::less<>> ids;
    std::vector<std::string> prefixes;
    for (const std::string_view tag : kTags) {
      for (size_t length = 0; length <= tag.size(); ++length) {
        const std::string prefix(tag.substr(0, length));
        if (ids.emplace(prefix, prefixes.size()).second) prefixes.push_back(prefix);
      }
    }
    for (const std::string& prefix : prefixes) {
      whole_.push_back(std::find(kTags.begin(), kTags.end(), prefix) != kTags.end());
      table_.emplace_back();
      for (int byte = 0; byte < 256; ++byte) {
        std::string text = prefix + static_cast<char>(byte);
        while (!ids.contains(text)) text.erase(0, 1);
        table_.back()[static_cast<size_t>(byte)] = ids.find(text)->second;
      }
    }
  }
  std::vector<std::array<uint32_t, 256>> table_;
  std::vector<bool> whole_;
};

constexpr std::string_view kHex = "0123456789abcdef";

// The letter of a two-character escape; 'u' for control characters without one; 0: none is needed.
char escape_letter(uint8_t byte) {
  switch (byte) {
    case '"':
      return '"';
    case '\\':
      return '\\';
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return byte < 0x20 ? 'u' : '\0';
  }
}

// Reading a JSON string: where in it, and the state of the text's machine.
struct JsonState {
  enum Place : uint8_t { kBefore, kInside, kBackslash, kU, kU0, kU00, kHigh0, kHigh1, kAfter };
  Place place = kBefore;
  uint32_t state = 0;
  auto operator<=>(const JsonState&) const = default;
};

class JsonReader {
 public:
  explicit JsonReader(const Machine& texts) : texts_(texts) {}

  std::optional<JsonState> operator()(const JsonState& at, uint8_t byte) const {
    using Place = JsonState;
    switch (at.place) {
      case Place::kBefore:
        return byte == '"' ? std::optional(JsonState{Place::kInside, at.state}) : std::nullopt;
      case Place::kInside:
        if (byte == '"') return closed(at.state);
        if (byte == '\\') return JsonState{Place::kBackslash, at.state};
        return byte < 0x20 ? std::nullopt : inside(at.state, byte);
      case Place::kBackslash:
        if (byte == 'u') return JsonState{Place::kU, at.state};
        return escaped(at.state, byte);
      case Place::kU:
        return byte == '0' ? std::optional(JsonState{Place::kU0, at.state}) : std::nullopt;
      case Place::kU0:
        return byte == '0' ? std::optional(JsonState{Place::kU00, at.state}) : std::nullopt;
      case Place::kU00:
        if (byte == '0') return JsonState{Place::kHigh0, at.state};
        return byte == '1' ? std::optional(JsonState{Place::kHigh1, at.state}) : std::nullopt;
      case Place::kHigh0:
      case Place::kHigh1: {
        const size_t digit = kHex.find(static_cast<char>(byte));
        if (digit == std::string_view::npos) return std::nullopt;
        const auto value = static_cast<uint8_t>(digit + (at.place == Place::kHigh1 ? 16U : 0U));
        return escape_letter(value) == 'u' ? inside(at.state, value) : std::nullopt;
      }
      case Place::kAfter:
        return std::nullopt;
    }
    return std::nullopt;
  }

 private:
  [[nodiscard]] std::optional<JsonState> inside(uint32_t state, uint8_t byte) const {
    const auto next = texts_.next(state, byte);
    return next ? std::optional(JsonState{JsonState::kInside, *next}) : std::nullopt;
  }
  [[nodiscard]] std::optional<JsonState> closed(uint32_t state) const {
    if (!texts_.states[state].accepting) return std::nullopt;
    return JsonState{JsonState::kAfter, 0};
  }
  [[nodiscard]] std::optional<JsonState> escaped(uint32_t state, uint8_t letter) const {
    for (const uint8_t byte : {'"', '\\', '\b', '\f', '\n', '\r', '\t'}) {
      if (static_cast<uint8_t>(escape_letter(byte)) == letter) return inside(state, byte);
    }
    return std::nullopt;
  }

  const Machine& texts_;
};

std::string date_pattern() {
  const std::string leap =
      "(?:[0-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
  const std::string year = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
  return "(?:" + year + "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])" +
         "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" + leap + "-02-29)";
}

// Local parts of up to 64 characters, labels of up to 63 (RFC 5321, RFC 1035), domains of up to
// five.
Machine email_addresses() {
  const std::string atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
  const std::string quoted = "\"(?:[ !#-\\[\\]-~]|\\\\[ -~])*\"";
  const std::string label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  const std::string octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  const std::string v4 = octet + "(?:\\." + octet + "){3}";
  const std::string group = "[0-9A-Fa-f]{1,4}";
  // Eight groups, or fewer with one `::` for at least one of them.
  std::string v6 = "(?:" + group + ":){7}" + group;
  for (int before = 0; before <= 7; ++before) {
    const std::string head =
        before == 0 ? "" : fmt::format("{}(?::{}){{{}}}", group, group, before - 1);
    const int after = 7 - before;
    const std::string tail =
        after == 0 ? "" : fmt::format("(?:{}(?::{}){{0,{}}})?", group, group, after - 1);
    v6 += "|" + head + "::" + tail;
  }
  auto local = with_length(made_of_pattern("^(?:" + atom + "(?:\\." + atom + ")*|" + quoted + ")$"),
                           1, 64, 10'000);
  LS_CHECK(local.has_value());
  const Machine domain = made_of_pattern("^(?:" + label + "(?:\\." + label + "){0,4}|\\[(?:" + v4 +
                                         "|IPv6:(?:" + v6 + "))\\])$");
  Nfa nfa;
  const uint32_t start = nfa.add_state();
  const uint32_t at = nfa.add_state();
  const uint32_t after = nfa.add_state();
  const uint32_t end = nfa.add_state();
  nfa.machine(start, at, *local);
  nfa.text(at, after, "@");
  nfa.machine(after, end, domain);
  auto made = nfa.determinise(start, end, 10'000);
  LS_CHECK(made.has_value());
  return std::move(*made);
}

}  // namespace

const Machine& any_text() {
  static const Machine made = make_any_text();
  return made;
}

Machine one_of(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  Machine machine;
  if (texts.empty()) return machine;
  machine.states.emplace_back();
  // Sorted, so that a text shares its path with the one before it or with none.
  std::vector<uint32_t> path = {0};
  std::string_view before;
  for (const std::string& text : texts) {
    size_t shared = 0;
    while (shared < std::min(before.size(), text.size()) && before[shared] == text[shared])
      ++shared;
    path.resize(shared + 1);
    for (size_t i = shared; i < text.size(); ++i) {
      const auto made = static_cast<uint32_t>(machine.states.size());
      const auto byte = static_cast<uint8_t>(text[i]);
      machine.states[path.back()].edges.push_back({byte, byte, made});
      machine.states.emplace_back();
      path.push_back(made);
    }
    machine.states[path.back()].accepting = true;
    before = text;
  }
  for (Machine::State& state : machine.states) {
    std::sort(state.edges.begin(), state.edges.end(),
              [](const auto& a, const auto& b) { return a.low < b.low; });
  }
  return machine;
}

Result<Machine> with_length(const Machine& texts, uint32_t low, uint32_t high, size_t limit) {
  if (texts.empty()) return texts;
  using State = std::pair<uint32_t, uint32_t>;  // of the texts, code points so far
  // Beyond these it makes no difference.
  const bool endless = high == UINT32_MAX;
  return explore(
      State(0, 0),
      [&](const State& at, uint8_t byte) -> std::optional<State> {
        const auto next = texts.next(at.first, byte);
        if (!next) return std::nullopt;
        const bool begins = (byte & 0xC0U) != 0x80U;
        uint32_t count = at.second + (begins ? 1 : 0);
        if (!endless && count > high) return std::nullopt;
        if (endless) count = std::min(count, low);
        return State(*next, count);
      },
      [&](const State& at) { return texts.states[at.first].accepting && at.second >= low; }, limit);
}

Result<Machine> without_tags(const Machine& texts, size_t limit) {
  if (texts.empty()) return texts;
  using State = std::pair<uint32_t, uint32_t>;
  const TagWatch& watch = TagWatch::get();
  return explore(
      State(0, 0),
      [&](const State& at, uint8_t byte) -> std::optional<State> {
        const auto next = texts.next(at.first, byte);
        const auto watched = watch.next(at.second, byte);
        if (!next || !watched) return std::nullopt;
        return State(*next, *watched);
      },
      [&](const State& at) { return texts.states[at.first].accepting; }, limit);
}

Result<Machine> as_json_strings(const Machine& texts, size_t limit) {
  if (texts.empty()) return texts;
  return explore(
      JsonState{}, JsonReader(texts),
      [](const JsonState& at) { return at.place == JsonState::kAfter; }, limit);
}

Result<Machine> unlike_json(const Machine& texts, size_t limit) {
  static const Machine json = made_of_pattern(
      "^[ \\t\\r\\n]*(?:(?:-?[0-9][0-9.eE+-]*|true|false|null)[ \\t\\r\\n]*$|[\\[{\"])");
  return subtract(texts, json, limit);
}

const Machine* format_named(std::string_view name) {
  static const std::map<std::string_view, Machine> formats = [] {
    std::map<std::string_view, Machine> made;
    const std::string hour = "(?:[01][0-9]|2[0-3])";
    made["date"] = made_of_pattern("^" + date_pattern() + "$");
    made["date-time"] =
        made_of_pattern("^" + date_pattern() + "T" + hour + ":[0-5][0-9]:[0-5][0-9]" +
                        "(?:\\.[0-9]{1,15})?(?:Z|[+-]" + hour + ":[0-5][0-9])$");
    made["uuid"] = made_of_pattern(
        "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$");
    made["email"] = email_addresses();
    return made;
  }();
  const auto found = formats.find(name);
  return found == formats.end() ? nullptr : &found->second;
}

}  // namespace longshore::text
