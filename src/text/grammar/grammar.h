// A grammar as its makers write it: expressions over bytes, code points, machines and rules.
//
// JSON Schema, GBNF and the tool-call format all become one of these; Automaton (automaton.h) is
// what runs. Tokens that the tokenizer adds beside its vocabulary (`<tool_call>`) are written as
// kAddedToken and their text, so that ordinary text never stands for one. Threading: a value; one
// thread builds it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/grammar/machine.h"
#include "text/grammar/nfa.h"

namespace longshore::text {

// Comes before the text of an added token; no UTF-8 has this byte.
constexpr uint8_t kAddedToken = 0xFF;

using ExprId = uint32_t;

// Strings of any content between two lengths, which are counted while they are read: the states of
// the machine do not multiply.
struct CountedStrings {
  bool json = true;  // in quotes and escaped; else raw text
  uint32_t low = 0;
  uint32_t high = UINT32_MAX;  // code points; UINT32_MAX: no limit
};

class Grammar {
 public:
  struct Expr {
    enum class Kind : uint8_t {
      kText,        // bytes
      kCodePoints,  // one of the ranges
      kSequence,    // of children; none: the empty text
      kChoice,      // of children; none: no text at all
      kRepeat,      // of the child, low to high times
      kMembers,     // of children in this order, commas between; some may be left out
      kRule,
      kMachine,
    };
    Kind kind;
    std::string text = {};
    std::vector<CodePointRange> ranges = {};
    std::vector<ExprId> children = {};
    uint32_t low = 0;
    uint32_t high = 0;  // UINT32_MAX: no limit
    RuleId rule = 0;
    std::shared_ptr<const Machine> machine = {};
    // kMembers: which of them must be there; a child more than these comes any number of times.
    std::vector<bool> required = {};
  };
  struct Rule {
    std::string name = {};  // for messages
    ExprId body = 0;
    bool defined = false;
    // Instead of a body: the machine of one string whose states are counted.
    std::shared_ptr<const Machine> strings = {};
    CountedStrings counted = {};
  };

  ExprId text(std::string_view bytes);
  ExprId code_points(std::vector<CodePointRange> ranges);
  ExprId sequence(std::vector<ExprId> children);
  ExprId choice(std::vector<ExprId> children);
  ExprId repeat(ExprId child, uint32_t low, uint32_t high);
  // An object's members in their order; others: any number more at the end, or none.
  struct Member {
    ExprId expr;
    bool required;
  };
  ExprId members(const std::vector<Member>& members, std::optional<ExprId> others);
  ExprId call(RuleId rule);
  ExprId machine(std::shared_ptr<const Machine> machine);
  ExprId empty() { return sequence({}); }
  ExprId never() { return choice({}); }
  [[nodiscard]] bool is_never(ExprId id) const {
    return exprs_[id].kind == Expr::Kind::kChoice && exprs_[id].children.empty();
  }

  RuleId add_rule(std::string name);
  void define(RuleId rule, ExprId body);
  // Strings of any content (without_tags: but for tags of tool calls).
  RuleId add_strings(const CountedStrings& counted, bool without_tags);

  [[nodiscard]] const std::vector<Expr>& exprs() const { return exprs_; }
  [[nodiscard]] const std::vector<Rule>& rules() const { return rules_; }
  RuleId root = 0;

 private:
  ExprId add(Expr expr);

  std::vector<Expr> exprs_;
  std::vector<Rule> rules_;
};

}  // namespace longshore::text
