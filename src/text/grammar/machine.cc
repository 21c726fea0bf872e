#include "text/grammar/machine.h"

#include <algorithm>
#include <array>

namespace longshore::text {
namespace {

constexpr uint32_t kDead = UINT32_MAX;
using Pair = std::pair<uint32_t, uint32_t>;

// The targets of every byte; kDead where there is none.
std::vector<std::array<uint32_t, 256>> table_of(const Machine& machine) {
  std::vector<std::array<uint32_t, 256>> table(machine.states.size());
  for (size_t i = 0; i < table.size(); ++i) {
    table[i].fill(kDead);
    for (const Machine::Edge& edge : machine.states[i].edges) {
      for (int byte = edge.low; byte <= edge.high; ++byte)
        table[i][static_cast<size_t>(byte)] = edge.to;
    }
  }
  return table;
}

// Which states reach an accepting one.
std::vector<bool> live_states(const Machine& machine) {
  const size_t count = machine.states.size();
  std::vector<std::vector<uint32_t>> sources(count);
  std::vector<bool> live(count, false);
  std::vector<uint32_t> work;
  for (uint32_t i = 0; i < count; ++i) {
    const Machine::State& state = machine.states[i];
    for (const Machine::Edge& edge : state.edges) sources[edge.to].push_back(i);
    for (const Machine::Call& call : state.calls) sources[call.to].push_back(i);
    if (!state.accepting) continue;
    live[i] = true;
    work.push_back(i);
  }
  while (!work.empty()) {
    const uint32_t state = work.back();
    work.pop_back();
    for (const uint32_t source : sources[state]) {
      if (live[source]) continue;
      live[source] = true;
      work.push_back(source);
    }
  }
  return live;
}

}  // namespace

std::optional<uint32_t> Machine::next(uint32_t state, uint8_t byte) const {
  for (const Edge& edge : states[state].edges) {
    if (byte < edge.low) return std::nullopt;
    if (byte <= edge.high) return edge.to;
  }
  return std::nullopt;
}

bool Machine::accepts(std::string_view text) const {
  if (states.empty()) return false;
  uint32_t state = 0;
  for (const char c : text) {
    const auto to = next(state, static_cast<uint8_t>(c));
    if (!to) return false;
    state = *to;
  }
  return states[state].accepting;
}

void trim(Machine& machine) {
  const std::vector<bool> live = live_states(machine);
  if (live.empty() || !live[0]) {
    machine.states.clear();
    return;
  }
  std::vector<uint32_t> renamed(live.size(), kDead);
  uint32_t kept = 0;
  for (size_t i = 0; i < live.size(); ++i) {
    if (live[i]) renamed[i] = kept++;
  }
  for (size_t i = 0; i < live.size(); ++i) {
    if (!live[i]) continue;
    Machine::State& state = machine.states[i];
    std::erase_if(state.edges, [&](const Machine::Edge& edge) { return !live[edge.to]; });
    std::erase_if(state.calls, [&](const Machine::Call& call) { return !live[call.to]; });
    for (Machine::Edge& edge : state.edges) edge.to = renamed[edge.to];
    for (Machine::Call& call : state.calls) call.to = renamed[call.to];
    if (renamed[i] != i) machine.states[renamed[i]] = std::move(state);
  }
  machine.states.resize(kept);
}

Result<Machine> intersect(const Machine& a, const Machine& b, size_t limit) {
  if (a.empty() || b.empty()) return Machine();
  const auto left = table_of(a);
  const auto right = table_of(b);
  return explore(
      Pair(0, 0),
      [&](const Pair& at, uint8_t byte) -> std::optional<Pair> {
        const Pair next(left[at.first][byte], right[at.second][byte]);
        if (next.first == kDead || next.second == kDead) return std::nullopt;
        return next;
      },
      [&](const Pair& at) { return a.states[at.first].accepting && b.states[at.second].accepting; },
      limit);
}

Result<Machine> subtract(const Machine& a, const Machine& b, size_t limit) {
  if (a.empty() || b.empty()) return a;
  const auto left = table_of(a);
  const auto right = table_of(b);
  return explore(
      Pair(0, 0),
      [&](const Pair& at, uint8_t byte) -> std::optional<Pair> {
        const uint32_t first = left[at.first][byte];
        if (first == kDead) return std::nullopt;
        return Pair(first, at.second == kDead ? kDead : right[at.second][byte]);
      },
      [&](const Pair& at) {
        return a.states[at.first].accepting &&
               (at.second == kDead || !b.states[at.second].accepting);
      },
      limit);
}

}  // namespace longshore::text
