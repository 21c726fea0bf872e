#include "text/grammar/regex.h"

#include <limits>
#include <optional>
#include <string>

#include "text/utf8.h"

namespace longshore::text {
namespace {

using Ranges = std::vector<CodePointRange>;

constexpr uint32_t kMaxRepeat = 1000;
constexpr int kMaxDepth = 100;
constexpr size_t kMaxNfaEdges = 200'000;

const Ranges kDigits = {{'0', '9'}};
const Ranges kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
// WhiteSpace and LineTerminator of ECMA-262.
const Ranges kSpace = {{0x9, 0xD},       {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680},
                       {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                       {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// Recursive descent straight into an automaton. Every parse_* adds a fragment that begins at `from`
// and returns its end.
class PatternParser {
 public:
  PatternParser(std::string_view pattern, Nfa& nfa) : pattern_(pattern), nfa_(nfa) {}

  Result<uint32_t> parse(uint32_t from) {
    LS_TRY(const uint32_t end, alternatives(from));
    if (at_ < pattern_.size()) return wrong("`)` without `(`");
    return end;
  }

 private:
  [[nodiscard]] bool done() const { return at_ >= pattern_.size(); }
  [[nodiscard]] char peek() const { return done() ? '\0' : pattern_[at_]; }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  [[nodiscard]] tl::unexpected<Error> wrong(std::string_view what) const {
    return fail(ErrorKind::kUsage, "{} at byte {} of the pattern", what, at_);
  }

  Result<uint32_t> alternatives(uint32_t from) {
    if (++depth_ > kMaxDepth) return wrong("groups nest too deep");
    const uint32_t end = nfa_.add_state();
    do {
      const uint32_t begin = nfa_.add_state();
      nfa_.skip(from, begin);
      LS_TRY(const uint32_t last, sequence(begin));
      nfa_.skip(last, end);
    } while (take("|"));
    --depth_;
    return end;
  }

  Result<uint32_t> sequence(uint32_t from) {
    while (!done() && peek() != '|' && peek() != ')') {
      if (nfa_.edges() > kMaxNfaEdges) return wrong("the pattern is too large");
      const size_t begin = at_;
      LS_TRY(const uint32_t once, atom(from));
      LS_TRY(from, quantified(from, once, begin));
    }
    return from;
  }

  struct Count {
    uint32_t low;
    uint32_t high;  // UINT32_MAX: no limit
  };

  // `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}`; nothing where there is none.
  Result<std::optional<Count>> count() {
    constexpr uint32_t kEndless = std::numeric_limits<uint32_t>::max();
    std::optional<Count> made;
    if (take("*"))
      made = {0, kEndless};
    else if (take("+"))
      made = {1, kEndless};
    else if (take("?"))
      made = {0, 1};
    else if (peek() == '{') {
      ++at_;
      LS_TRY(const uint32_t low, number());
      made = {low, low};
      if (take(",")) {
        made->high = kEndless;
        if (peek() != '}') {
          LS_TRY(made->high, number());
        }
      }
      if (!take("}")) return wrong("expected `}`");
      if (made->high < made->low) return wrong("{m,n} with m > n");
    }
    if (made) (void)take("?");
    return made;
  }

  Result<uint32_t> number() {
    if (peek() < '0' || peek() > '9') return wrong("expected a number");
    uint32_t value = 0;
    while (peek() >= '0' && peek() <= '9' && !done()) {
      value = value * 10 + static_cast<uint32_t>(pattern_[at_++] - '0');
      if (value > kMaxRepeat) return wrong("a repetition of more than 1000 is not supported");
    }
    return value;
  }

  // The atom between `from` and `once` was parsed from byte `begin` on: copies are parsed anew.
  Result<uint32_t> quantified(uint32_t from, uint32_t once, size_t begin) {
    LS_TRY(const auto counted, count());
    if (!counted) return once;
    const char first = pattern_[begin];
    if (first == '^' || first == '$') return wrong("nothing to repeat");
    const size_t after = at_;
    const auto again = [&](uint32_t start) -> Result<uint32_t> {
      if (nfa_.edges() > kMaxNfaEdges) return wrong("the pattern is too large");
      at_ = begin;
      LS_TRY(const uint32_t end, atom(start));
      at_ = after;
      return end;
    };
    const uint32_t end = nfa_.add_state();
    // The first copy is there already; low == 0 skips it.
    if (counted->low == 0) nfa_.skip(from, end);
    if (counted->high == 0) return end;
    uint32_t last = once;
    uint32_t before = from;
    for (uint32_t i = 1; i < counted->low; ++i) {
      before = nfa_.add_state();
      nfa_.skip(last, before);
      LS_TRY(last, again(before));
    }
    if (counted->high == std::numeric_limits<uint32_t>::max()) {
      // One more state, so that the way back leads into the last copy only.
      const uint32_t loop = nfa_.add_state();
      nfa_.skip(last, loop);
      nfa_.skip(loop, end);
      LS_TRY(const uint32_t back, again(loop));
      nfa_.skip(back, loop);
      return end;
    }
    for (uint32_t i = std::max<uint32_t>(counted->low, 1); i < counted->high; ++i) {
      nfa_.skip(last, end);
      before = nfa_.add_state();
      nfa_.skip(last, before);
      LS_TRY(last, again(before));
    }
    nfa_.skip(last, end);
    return end;
  }

  Result<uint32_t> atom(uint32_t from) {
    if (take("^")) return placed(from, Nfa::Place::kAtStart);
    if (take("$")) return placed(from, Nfa::Place::kAtEnd);
    if (take("(")) return group(from);
    if (take(".")) return ranges(from, complement(kLineEnds));
    if (take("[")) return character_class(from);
    if (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{')
      return wrong("nothing to repeat");
    if (peek() == ']' || peek() == '}') return wrong("a bracket that nothing opens");
    if (peek() == '\\') {
      LS_TRY(const Ranges made, escape(/*in_class=*/false));
      return ranges(from, made);
    }
    LS_TRY(const uint32_t code, character());
    return ranges(from, {{code, code}});
  }

  uint32_t placed(uint32_t from, Nfa::Place place) {
    const uint32_t end = nfa_.add_state();
    nfa_.skip(from, end, place);
    return end;
  }

  uint32_t ranges(uint32_t from, const Ranges& given) {
    const uint32_t end = nfa_.add_state();
    nfa_.code_points(from, end, given);
    return end;
  }

  Result<uint32_t> group(uint32_t from) {
    if (take("?")) {
      if (take("<")) {
        if (peek() == '=' || peek() == '!') return wrong("lookbehind is not supported");
        while (!done() && peek() != '>') ++at_;
        if (!take(">")) return wrong("expected `>`");
      } else if (!take(":")) {
        return wrong("lookahead and modifiers are not supported");
      }
    }
    LS_TRY(const uint32_t end, alternatives(from));
    if (!take(")")) return wrong("`(` without `)`");
    return end;
  }

  Result<uint32_t> character() {
    const Utf8Step step = utf8_step(pattern_, at_);
    if (step.status != Utf8Step::Status::kValid) return wrong("no valid UTF-8");
    at_ += step.length;
    return step.code_point;
  }

  Result<uint32_t> hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return wrong("expected a hexadecimal digit");
      value = value * 16 + static_cast<uint32_t>(digit);
      ++at_;
    }
    return value;
  }

  Result<uint32_t> unicode_escape() {
    if (!take("{")) {
      LS_TRY(uint32_t value, hex(4));
      if (value >= 0xD800 && value < 0xDC00 && take("\\u")) {
        LS_TRY(const uint32_t low, hex(4));
        if (low < 0xDC00 || low > 0xDFFF) return wrong("half a surrogate pair");
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
      }
      return value;
    }
    uint32_t value = 0;
    while (!done() && peek() != '}') {
      LS_TRY(const uint32_t digit, hex(1));
      value = value * 16 + digit;
      if (value > kMaxCodePoint) return wrong("beyond U+10FFFF");
    }
    if (!take("}")) return wrong("expected `}`");
    return value;
  }

  // After the backslash's place: one character, or a class such as \d.
  Result<Ranges> escape(bool in_class) {
    ++at_;
    if (done()) return wrong("a backslash at the end");
    const char c = peek();
    const auto one = [](uint32_t code) { return Ranges{{code, code}}; };
    if (const Ranges made = class_of_escape(c); !made.empty()) {
      ++at_;
      return made;
    }
    if (c == 'b' && in_class) return ++at_, one('\b');
    if (c == 'b' || c == 'B') return wrong("\\b is not supported");
    if (c == 'p' || c == 'P') return wrong("\\p is not supported");
    if (c == 'k' || (c >= '1' && c <= '9')) return wrong("backreferences are not supported");
    ++at_;
    switch (c) {
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'c': {
        const auto letter = static_cast<uint32_t>(peek());
        if ((letter | 0x20U) < 'a' || (letter | 0x20U) > 'z') return wrong("expected a letter");
        ++at_;
        return one(letter & 31U);
      }
      case 'x': {
        LS_TRY(const uint32_t code, hex(2));
        return one(code);
      }
      case 'u': {
        LS_TRY(const uint32_t code, unicode_escape());
        return one(code);
      }
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter) return wrong("an unknown escape");
    --at_;
    LS_TRY(const uint32_t code, character());
    return one(code);
  }

  Result<uint32_t> character_class(uint32_t from) {
    const bool negated = take("^");
    Ranges made;
    while (!done() && peek() != ']') {
      LS_TRY(const Ranges low, class_atom());
      const bool single = low.size() == 1 && low[0].low == low[0].high;
      if (peek() != '-' || at_ + 1 >= pattern_.size() || pattern_[at_ + 1] == ']') {
        made.insert(made.end(), low.begin(), low.end());
        continue;
      }
      ++at_;
      LS_TRY(const Ranges high, class_atom());
      if (!single || high.size() != 1 || high[0].low != high[0].high)
        return wrong("a range needs a character on both sides");
      if (high[0].low < low[0].low) return wrong("a range out of order");
      made.push_back({low[0].low, high[0].low});
    }
    if (!take("]")) return wrong("`[` without `]`");
    return ranges(from, negated ? complement(std::move(made)) : std::move(made));
  }

  Result<Ranges> class_atom() {
    if (peek() == '\\') return escape(/*in_class=*/true);
    LS_TRY(const uint32_t code, character());
    return Ranges{{code, code}};
  }

  std::string_view pattern_;
  Nfa& nfa_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<CodePointRange> class_of_escape(char letter) {
  switch (letter) {
    case 'd':
      return kDigits;
    case 'D':
      return complement(kDigits);
    case 'w':
      return kWord;
    case 'W':
      return complement(kWord);
    case 's':
      return kSpace;
    case 'S':
      return complement(kSpace);
    default:
      return {};
  }
}

Result<Machine> compile_pattern(std::string_view pattern, size_t limit) {
  constexpr size_t kMaxPattern = 1 << 16;
  if (pattern.size() > kMaxPattern)
    return fail(ErrorKind::kUsage, "the pattern is longer than {} bytes", kMaxPattern);
  Nfa nfa;
  const std::vector<CodePointRange> any = complement({});
  const uint32_t start = nfa.add_state();
  nfa.code_points(start, start, any);
  LS_TRY(const uint32_t matched, PatternParser(pattern, nfa).parse(start));
  const uint32_t end = nfa.add_state();
  nfa.skip(matched, end);
  nfa.code_points(end, end, any);
  return nfa.determinise(start, end, limit);
}

}  // namespace longshore::text
