#include "text/grammar/grammar.h"

#include <utility>

#include "base/check.h"
#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

using Shared = std::shared_ptr<const Machine>;

Shared make_strings(bool json, bool without_tags_of_calls) {
  constexpr size_t kLimit = 10'000;
  Machine machine = any_text();
  if (json) {
    auto made = as_json_strings(machine, kLimit);
    LS_CHECK(made.has_value());
    machine = std::move(*made);
  }
  if (without_tags_of_calls) {
    auto made = without_tags(machine, kLimit);
    LS_CHECK(made.has_value());
    machine = std::move(*made);
  }
  return std::make_shared<const Machine>(std::move(machine));
}

}  // namespace

ExprId Grammar::add(Expr expr) {
  exprs_.push_back(std::move(expr));
  return static_cast<ExprId>(exprs_.size() - 1);
}

ExprId Grammar::text(std::string_view bytes) {
  return add({.kind = Expr::Kind::kText, .text = std::string(bytes)});
}

ExprId Grammar::code_points(std::vector<CodePointRange> ranges) {
  return add({.kind = Expr::Kind::kCodePoints, .ranges = normalised(std::move(ranges))});
}

ExprId Grammar::sequence(std::vector<ExprId> children) {
  if (children.size() == 1) return children.front();
  for (const ExprId child : children) {
    if (is_never(child)) return child;
  }
  return add({.kind = Expr::Kind::kSequence, .children = std::move(children)});
}

ExprId Grammar::choice(std::vector<ExprId> children) {
  std::erase_if(children, [&](ExprId child) { return is_never(child); });
  if (children.size() == 1) return children.front();
  return add({.kind = Expr::Kind::kChoice, .children = std::move(children)});
}

ExprId Grammar::repeat(ExprId child, uint32_t low, uint32_t high) {
  if (is_never(child)) return low == 0 ? empty() : child;
  return add({.kind = Expr::Kind::kRepeat, .children = {child}, .low = low, .high = high});
}

ExprId Grammar::members(const std::vector<Member>& members, std::optional<ExprId> others) {
  Expr made{.kind = Expr::Kind::kMembers};
  for (const Member& member : members) {
    if (is_never(member.expr)) {
      if (member.required) return never();
      continue;
    }
    made.children.push_back(member.expr);
    made.required.push_back(member.required);
  }
  if (others && !is_never(*others)) made.children.push_back(*others);
  return add(std::move(made));
}

ExprId Grammar::call(RuleId rule) {
  return add({.kind = Expr::Kind::kRule, .rule = rule});
}

ExprId Grammar::machine(Shared machine) {
  if (machine->empty()) return never();
  return add({.kind = Expr::Kind::kMachine, .machine = std::move(machine)});
}

RuleId Grammar::add_rule(std::string name) {
  rules_.push_back({.name = std::move(name)});
  return static_cast<RuleId>(rules_.size() - 1);
}

void Grammar::define(RuleId rule, ExprId body) {
  LS_CHECK(!rules_[rule].defined);
  rules_[rule].body = body;
  rules_[rule].defined = true;
}

RuleId Grammar::add_strings(const CountedStrings& counted, bool without_tags_of_calls) {
  static const Shared json = make_strings(true, false);
  static const Shared json_without = make_strings(true, true);
  static const Shared raw = make_strings(false, false);
  static const Shared raw_without = make_strings(false, true);
  const RuleId made = add_rule("string");
  Rule& rule = rules_[made];
  rule.defined = true;
  rule.counted = counted;
  rule.strings = counted.json ? (without_tags_of_calls ? json_without : json)
                              : (without_tags_of_calls ? raw_without : raw);
  return made;
}

}  // namespace longshore::text
