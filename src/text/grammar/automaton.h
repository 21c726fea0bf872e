// A grammar made ready to run: every rule a machine, all machines in one table of states.
//
// A rule's machine is deterministic unless that would take too many states. Rules that no text ends
// and states that lead nowhere are gone, so whatever is still alive can be finished. Threading:
// immutable after compile; any thread reads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/grammar/grammar.h"

namespace longshore::text {

class Automaton {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Call {
    RuleId rule;  // or kNothing
    uint32_t to;  // kNone: nothing comes after the call, so it returns to where this rule returns
  };

  // kUsage: no text at all, or more than the limits below, with the name of the rule to look at.
  static Result<std::shared_ptr<const Automaton>> compile(const Grammar& grammar);

  // -- states; `count` is 0 but in counted strings --
  // The next state and its count, or kNone. Of a state that has several, the first: see edges().
  [[nodiscard]] uint32_t next(uint32_t state, uint32_t& count, uint8_t byte) const;
  [[nodiscard]] bool accepting(uint32_t state, uint32_t count) const {
    const State& at = states_[state];
    return at.accepting && (!at.counted || count >= rules_[at.rule].low);
  }
  [[nodiscard]] bool takes_bytes(uint32_t state) const {
    return states_[state].edges_begin != states_[state].edges_end;
  }
  // False: several edges may take the same byte.
  [[nodiscard]] bool deterministic(uint32_t state) const { return states_[state].deterministic; }
  [[nodiscard]] std::span<const Machine::Edge> edges(uint32_t state) const {
    const State& at = states_[state];
    return {edges_.data() + at.edges_begin, at.edges_end - at.edges_begin};
  }
  [[nodiscard]] std::span<const Call> calls(uint32_t state) const {
    const State& at = states_[state];
    return {calls_.data() + at.calls_begin, at.calls_end - at.calls_begin};
  }
  // Counts between which no token can tell are the same for a mask: a stand-in for `count`.
  [[nodiscard]] uint32_t count_class(uint32_t state, uint32_t count, uint32_t longest_token) const;
  // Every plain character (vocabulary.h), and any number of them, may follow, and the rule does not
  // end meanwhile; as many as room() says.
  [[nodiscard]] bool takes_plain(uint32_t state) const { return states_[state].plain; }
  [[nodiscard]] uint32_t room(uint32_t state, uint32_t count) const {
    const uint32_t high = rules_[states_[state].rule].high;
    return high == UINT32_MAX ? high : high - count;
  }
  // The state's rule calls no other.
  [[nodiscard]] bool in_leaf(uint32_t state) const { return rules_[states_[state].rule].leaf; }

  // -- rules --
  [[nodiscard]] uint32_t start(RuleId rule) const { return rules_[rule].start; }
  [[nodiscard]] bool nullable(RuleId rule) const { return rules_[rule].nullable; }
  [[nodiscard]] size_t rule_count() const { return rules_.size(); }
  [[nodiscard]] RuleId root() const { return root_; }

  [[nodiscard]] size_t state_count() const { return states_.size(); }
  [[nodiscard]] size_t memory_bytes() const;

 private:
  struct State {
    uint32_t edges_begin = 0;
    uint32_t edges_end = 0;
    uint32_t calls_begin = 0;
    uint32_t calls_end = 0;
    uint32_t dense = kNone;  // its 256 targets in dense_
    RuleId rule = 0;
    bool accepting = false;
    bool deterministic = true;
    bool counted = false;  // between two characters of a counted string
    bool closing = false;  // the end of a counted string in quotes
    bool plain = false;    // takes_plain()
  };
  struct Rule {
    uint32_t start = kNone;
    bool nullable = false;
    bool leaf = true;
    uint32_t low = 0;
    uint32_t high = UINT32_MAX;
  };
  friend class AutomatonBuilder;

  std::vector<State> states_;
  std::vector<Machine::Edge> edges_;
  std::vector<Call> calls_;
  std::vector<uint32_t> dense_;
  std::vector<Rule> rules_;
  RuleId root_ = 0;
};

// Limits of one grammar.
constexpr size_t kMaxGrammarEdges = 2'000'000;
constexpr size_t kMaxMachineStates = 200'000;  // of one deterministic machine

}  // namespace longshore::text
