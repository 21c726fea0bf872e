#include "text/grammar/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "text/utf8.h"

namespace longshore::text {
namespace {

constexpr size_t kMaxSource = size_t{4} << 20;
constexpr int kMaxDepth = 200;
constexpr uint32_t kMaxRepeat = 10'000;

class GbnfParser {
 public:
  GbnfParser(std::string_view source, Grammar& grammar) : source_(source), grammar_(grammar) {}

  Result<RuleId> parse() {
    if (source_.size() > kMaxSource) return wrong("the grammar is longer than 4 MiB");
    if (const auto at = find_invalid_utf8(source_)) {
      at_ = *at;
      return wrong("no valid UTF-8");
    }
    space(/*lines=*/true);
    while (at_ < source_.size()) LS_TRY_VOID(rule());
    for (const auto& [name, known] : rules_) {
      if (!grammar_.rules()[known.id].defined) {
        at_ = known.used_at;
        return wrong(fmt::format("the rule {} is not defined", name));
      }
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return fail(ErrorKind::kUsage, "there is no rule `root`");
    return root->second.id;
  }

 private:
  struct Known {
    RuleId id;
    size_t used_at;
  };

  [[nodiscard]] char peek() const { return at_ < source_.size() ? source_[at_] : '\0'; }
  bool take(std::string_view text) {
    if (!source_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  [[nodiscard]] tl::unexpected<Error> wrong(std::string_view what) const {
    const size_t end = std::min(at_, source_.size());
    const auto line =
        1 + std::count(source_.begin(), source_.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    return fail(ErrorKind::kUsage, "{}, line {}", what, line);
  }

  // Blanks and comments, and line ends where they mean nothing.
  void space(bool lines) {
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '#') {
        while (at_ < source_.size() && source_[at_] != '\n' && source_[at_] != '\r') ++at_;
      } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  }

  std::string name() {
    const size_t begin = at_;
    // A dot alone is any character.
    while (is_word(peek()) && (at_ > begin || peek() != '.')) ++at_;
    return std::string(source_.substr(begin, at_ - begin));
  }

  RuleId rule_named(const std::string& name) {
    const auto found = rules_.find(name);
    if (found != rules_.end()) return found->second.id;
    const RuleId made = grammar_.add_rule(name);
    rules_.emplace(name, Known{made, at_});
    return made;
  }

  Result<void> rule() {
    const std::string called = name();
    if (called.empty()) return wrong("expected the name of a rule");
    space(false);
    if (!take("::=")) return wrong("expected `::=`");
    space(true);
    const RuleId id = rule_named(called);
    if (grammar_.rules()[id].defined)
      return wrong(fmt::format("the rule {} is there twice", called));
    LS_TRY(const ExprId body, alternatives(/*nested=*/false));
    grammar_.define(id, in_a_row(id, body));
    if (at_ < source_.size() && peek() != '\n' && peek() != '\r') {
      return wrong("expected the end of the line");
    }
    space(true);
    return {};
  }

  [[nodiscard]] bool calls(ExprId id, RuleId rule) const {
    const Grammar::Expr& expr = grammar_.exprs()[id];
    return expr.kind == Grammar::Expr::Kind::kRule && expr.rule == rule;
  }

  // `e ::= e op e | e e | x` says `x ((op | "") x)*`: the same texts, of which each long one has
  // one reading here instead of exponentially many.
  ExprId in_a_row(RuleId rule, ExprId body) {
    const Grammar::Expr whole = grammar_.exprs()[body];
    if (whole.kind != Grammar::Expr::Kind::kChoice) return body;
    std::vector<ExprId> links;
    std::vector<ExprId> ends;
    for (const ExprId way : whole.children) {
      const Grammar::Expr expr = grammar_.exprs()[way];
      const std::vector<ExprId>& items = expr.children;
      const bool joins = expr.kind == Grammar::Expr::Kind::kSequence && items.size() > 1 &&
                         calls(items.front(), rule) && calls(items.back(), rule);
      if (joins) {
        links.push_back(grammar_.sequence({items.begin() + 1, items.end() - 1}));
      } else if (!calls(way, rule)) {
        ends.push_back(way);
      }
    }
    if (links.empty()) return body;
    const ExprId end = grammar_.choice(std::move(ends));
    const ExprId more = grammar_.sequence({grammar_.choice(std::move(links)), end});
    return grammar_.sequence({end, grammar_.repeat(more, 0, UINT32_MAX)});
  }

  Result<ExprId> alternatives(bool nested) {
    if (++depth_ > kMaxDepth) return wrong("groups nest too deep");
    std::vector<ExprId> made;
    for (;;) {
      LS_TRY(const ExprId one, sequence(nested));
      made.push_back(one);
      if (!take("|")) break;
      space(true);
    }
    --depth_;
    return grammar_.choice(std::move(made));
  }

  Result<ExprId> sequence(bool nested) {
    std::vector<ExprId> made;
    for (;;) {
      const char c = peek();
      if (c == '\0' || c == '|' || c == ')' || (!nested && (c == '\n' || c == '\r'))) break;
      LS_TRY(const ExprId one, item());
      LS_TRY(const ExprId counted, repeated(one));
      made.push_back(counted);
      space(nested);
    }
    return grammar_.sequence(std::move(made));
  }

  Result<ExprId> item() {
    if (take("\"")) return literal();
    if (take("[")) return character_class();
    if (take(".")) return grammar_.code_points({{0, kMaxCodePoint}});
    if (take("(")) {
      space(true);
      LS_TRY(const ExprId inner, alternatives(/*nested=*/true));
      if (!take(")")) return wrong("`(` without `)`");
      return inner;
    }
    if (peek() == '<' || peek() == '!') return wrong("tokens (`<...>`) are not supported");
    const std::string called = name();
    if (called.empty()) return wrong(fmt::format("`{}` is not expected here", peek()));
    return grammar_.call(rule_named(called));
  }

  Result<ExprId> repeated(ExprId one) {
    for (int times = 0;; ++times) {
      if (take("*")) {
        one = grammar_.repeat(one, 0, UINT32_MAX);
      } else if (take("+")) {
        one = grammar_.repeat(one, 1, UINT32_MAX);
      } else if (take("?")) {
        one = grammar_.repeat(one, 0, 1);
      } else if (take("{")) {
        LS_TRY(one, counted(one));
      } else {
        return one;
      }
      if (times > 8) return wrong("a repetition of repetitions of repetitions");
    }
  }

  Result<ExprId> counted(ExprId one) {
    space(false);
    LS_TRY(const uint32_t low, number());
    uint32_t high = low;
    space(false);
    if (take(",")) {
      space(false);
      high = UINT32_MAX;
      if (peek() != '}') {
        LS_TRY(high, number());
      }
      space(false);
    }
    if (!take("}")) return wrong("expected `}`");
    if (high < low) return wrong("{m,n} with m > n");
    return grammar_.repeat(one, low, high);
  }

  Result<uint32_t> number() {
    if (peek() < '0' || peek() > '9') return wrong("expected a number");
    uint32_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + static_cast<uint32_t>(source_[at_++] - '0');
      if (value > kMaxRepeat) return wrong("a repetition of more than 10000 is not supported");
    }
    return value;
  }

  // One character of a literal or a class, escapes resolved.
  Result<uint32_t> character() {
    const Utf8Step step = utf8_step(source_, at_);
    at_ += step.length;
    if (step.code_point != '\\') return step.code_point;
    const char c = peek();
    ++at_;
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<uint32_t>(c);
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      case 'U':
        return hex(8);
      default:
        return wrong("an unknown escape");
    }
  }

  Result<uint32_t> hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = peek();
      const bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      if (!letter && (c < '0' || c > '9')) return wrong("expected a hexadecimal digit");
      const int digit = letter ? (c | 0x20) - 'a' + 10 : c - '0';
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    if (value > kMaxCodePoint || (value >= 0xD800 && value <= 0xDFFF)) return wrong("no character");
    return value;
  }

  Result<ExprId> literal() {
    std::string text;
    while (peek() != '"') {
      if (at_ >= source_.size() || peek() == '\n') return wrong("a literal without its end");
      LS_TRY(const uint32_t code, character());
      append_utf8(text, code);
    }
    ++at_;
    return grammar_.text(text);
  }

  Result<ExprId> character_class() {
    const bool negated = take("^");
    std::vector<CodePointRange> ranges;
    while (peek() != ']') {
      if (at_ >= source_.size()) return wrong("`[` without `]`");
      LS_TRY(const uint32_t low, character());
      uint32_t high = low;
      if (peek() == '-' && at_ + 1 < source_.size() && source_[at_ + 1] != ']') {
        ++at_;
        LS_TRY(high, character());
      }
      if (high < low) return wrong("a range out of order");
      ranges.push_back({low, high});
    }
    ++at_;
    if (negated) ranges = complement(std::move(ranges));
    if (ranges.empty()) return grammar_.never();
    return grammar_.code_points(std::move(ranges));
  }

  std::string_view source_;
  Grammar& grammar_;
  size_t at_ = 0;
  int depth_ = 0;
  std::map<std::string, Known, std::less<>> rules_;
};

}  // namespace

Result<RuleId> parse_gbnf(std::string_view source, Grammar& grammar) {
  return GbnfParser(source, grammar).parse();
}

Result<Grammar> parse_gbnf(std::string_view source) {
  Grammar grammar;
  LS_TRY(grammar.root, parse_gbnf(source, grammar));
  return grammar;
}

}  // namespace longshore::text
