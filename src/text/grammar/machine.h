// A finite automaton over bytes whose transitions may also call rules: the body of one rule of a
// grammar, or, without calls, a regular language such as that of a pattern.
//
// Threading: a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace longshore::text {

using RuleId = uint32_t;
// The call that takes nothing: where a machine has too many states to be made deterministic.
constexpr RuleId kNothing = UINT32_MAX;

struct Machine {
  struct Edge {
    uint8_t low;
    uint8_t high;  // inclusive
    uint32_t to;
  };
  struct Call {
    RuleId rule;
    uint32_t to;
    auto operator<=>(const Call&) const = default;
  };
  struct State {
    std::vector<Edge> edges;  // ascending; without overlap unless the machine has kNothing calls
    std::vector<Call> calls;
    bool accepting = false;
  };
  std::vector<State> states;  // the first one is the start; none: no text at all

  [[nodiscard]] bool empty() const { return states.empty(); }
  // Of a machine without calls.
  [[nodiscard]] std::optional<uint32_t> next(uint32_t state, uint8_t byte) const;
  [[nodiscard]] bool accepts(std::string_view text) const;
};

// Removes states from which no text is accepted.
void trim(Machine& machine);

// Both without calls, deterministic. kUsage: more than `limit` states.
Result<Machine> intersect(const Machine& a, const Machine& b, size_t limit);
Result<Machine> subtract(const Machine& a, const Machine& b, size_t limit);

// The machine of everything that `step` can reach. State: ordered; step(const State&, uint8_t)
// gives the next one or nothing; accepting(const State&). kUsage: more than `limit` states.
template <typename State, typename Step, typename Accepting>
Result<Machine> explore(State start, Step step, Accepting accepting, size_t limit) {
  Machine machine;
  std::map<State, uint32_t> ids;
  std::vector<const State*> states;
  const auto id_of = [&](const State& state) {
    const auto [at, is_new] = ids.emplace(state, static_cast<uint32_t>(states.size()));
    if (is_new) states.push_back(&at->first);
    return at->second;
  };
  id_of(start);
  for (size_t i = 0; i < states.size(); ++i) {
    if (states.size() > limit) return fail(ErrorKind::kUsage, "needs more than {} states", limit);
    Machine::State made;
    made.accepting = accepting(*states[i]);
    for (int byte = 0; byte < 256; ++byte) {
      const std::optional<State> next = step(*states[i], static_cast<uint8_t>(byte));
      if (!next) continue;
      const uint32_t to = id_of(*next);
      const auto value = static_cast<uint8_t>(byte);
      if (!made.edges.empty() && made.edges.back().to == to &&
          made.edges.back().high + 1 == value) {
        made.edges.back().high = value;
      } else {
        made.edges.push_back({value, value, to});
      }
    }
    machine.states.push_back(std::move(made));
  }
  trim(machine);
  return machine;
}

}  // namespace longshore::text
