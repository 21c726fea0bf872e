#include "text/grammar/nfa.h"

#include <algorithm>
#include <map>
#include <string>

#include "base/check.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

constexpr uint32_t kFirstSurrogate = 0xD800;
constexpr uint32_t kLastSurrogate = 0xDFFF;

std::vector<CodePointRange> joined(std::vector<CodePointRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<CodePointRange> made;
  for (const CodePointRange& range : ranges) {
    if (!made.empty() && range.low <= made.back().high + 1) {
      made.back().high = std::max(made.back().high, range.high);
    } else {
      made.push_back(range);
    }
  }
  return made;
}

}  // namespace

std::vector<CodePointRange> complement(std::vector<CodePointRange> ranges) {
  ranges.push_back({kFirstSurrogate, kLastSurrogate});
  std::vector<CodePointRange> made;
  uint32_t next = 0;
  for (const CodePointRange& range : joined(std::move(ranges))) {
    if (range.low > next) made.push_back({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= kMaxCodePoint) made.push_back({next, kMaxCodePoint});
  return made;
}

std::vector<CodePointRange> normalised(std::vector<CodePointRange> ranges) {
  return complement(complement(std::move(ranges)));
}

uint32_t Nfa::add_state() {
  states_.emplace_back();
  return static_cast<uint32_t>(states_.size() - 1);
}

void Nfa::bytes(uint32_t from, uint32_t to, uint8_t low, uint8_t high) {
  states_[from].edges.push_back({low, high, to});
  ++edges_;
}

void Nfa::text(uint32_t from, uint32_t to, std::string_view bytes_of_text) {
  if (bytes_of_text.empty()) return skip(from, to);
  for (size_t i = 0; i < bytes_of_text.size(); ++i) {
    const uint32_t next = i + 1 == bytes_of_text.size() ? to : add_state();
    const auto byte = static_cast<uint8_t>(bytes_of_text[i]);
    bytes(from, next, byte, byte);
    from = next;
  }
}

void Nfa::skip(uint32_t from, uint32_t to, Place place) {
  states_[from].skips.push_back({to, place});
  ++edges_;
}

void Nfa::call(uint32_t from, uint32_t to, RuleId rule) {
  states_[from].calls.push_back({rule, to});
  ++edges_;
}

void Nfa::machine(uint32_t from, uint32_t to, const Machine& machine) {
  const auto first = static_cast<uint32_t>(states_.size());
  for (size_t i = 0; i < machine.states.size(); ++i) add_state();
  if (machine.empty()) return;
  skip(from, first);
  for (size_t i = 0; i < machine.states.size(); ++i) {
    const auto at = static_cast<uint32_t>(first + i);
    for (const Machine::Edge& edge : machine.states[i].edges)
      bytes(at, first + edge.to, edge.low, edge.high);
    for (const Machine::Call& made : machine.states[i].calls) call(at, first + made.to, made.rule);
    if (machine.states[i].accepting) skip(at, to);
  }
}

void Nfa::code_points(uint32_t from, uint32_t to, const std::vector<CodePointRange>& ranges) {
  for (const CodePointRange& range : normalised(ranges)) {
    // Cut where the number of bytes changes.
    uint32_t low = range.low;
    for (const uint32_t last : {0x7FU, 0x7FFU, 0xFFFFU, kMaxCodePoint}) {
      if (low > last || low > range.high) continue;
      utf8(from, to, low, std::min(last, range.high));
      low = last + 1;
    }
  }
}

// Both have the same number of bytes. Ranges whose later bytes are not all of 80..BF are cut.
void Nfa::utf8(uint32_t from, uint32_t to, uint32_t low, uint32_t high) {
  for (int i = 1; i < 4; ++i) {
    const uint32_t mask = (1U << (6 * i)) - 1;
    const bool whole = (low & mask) == 0 && (high & mask) == mask;
    if ((low & ~mask) == (high & ~mask) || low <= 0x7F || whole) continue;
    if ((low & mask) != 0) {
      utf8(from, to, low, low | mask);
      return utf8(from, to, (low | mask) + 1, high);
    }
    if ((high & mask) != mask) {
      utf8(from, to, low, (high & ~mask) - 1);
      return utf8(from, to, high & ~mask, high);
    }
  }
  std::string first;
  std::string last;
  append_utf8(first, low);
  append_utf8(last, high);
  for (size_t i = 0; i < first.size(); ++i) {
    const uint32_t next = i + 1 == first.size() ? to : add_state();
    bytes(from, next, static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i]));
    from = next;
  }
}

void Nfa::close(Set& set, bool at_start, bool at_end, std::vector<uint8_t>& seen) const {
  for (const uint32_t state : set) seen[state] = 1;
  for (size_t i = 0; i < set.size(); ++i) {
    for (const Skip& skip : states_[set[i]].skips) {
      if (skip.place == Place::kAtStart && !at_start) continue;
      if (skip.place == Place::kAtEnd && !at_end) continue;
      if (seen[skip.to] != 0) continue;
      seen[skip.to] = 1;
      set.push_back(skip.to);
    }
  }
  for (const uint32_t state : set) seen[state] = 0;
  std::sort(set.begin(), set.end());
}

Result<Machine> Nfa::determinise(uint32_t start, uint32_t accept, size_t limit) const {
  constexpr size_t kMeanSet = 16;
  Machine machine;
  std::map<Set, uint32_t> ids;
  std::vector<const Set*> sets;
  std::vector<uint8_t> seen(states_.size(), 0);
  size_t work = 0;
  const auto id_of = [&](Set set) {
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
    close(set, false, false, seen);
    work += set.size();
    const auto [at, is_new] = ids.emplace(std::move(set), static_cast<uint32_t>(sets.size()));
    if (is_new) sets.push_back(&at->first);
    return at->second;
  };
  // Not among the ids: what lies after a text's beginning is never at it again.
  Set first_set = {start};
  close(first_set, true, false, seen);
  sets.push_back(&first_set);
  std::vector<Machine::Edge> edges;
  std::vector<int> cuts;
  std::map<RuleId, Set> calls;
  for (size_t i = 0; i < sets.size(); ++i) {
    if (sets.size() > limit || work > limit * kMeanSet)
      return fail(ErrorKind::kUsage, "needs more than {} states", limit);
    Machine::State made;
    Set last = *sets[i];
    close(last, i == 0, true, seen);
    made.accepting = std::binary_search(last.begin(), last.end(), accept);
    edges.clear();
    cuts.clear();
    calls.clear();
    for (const uint32_t state : *sets[i]) {
      for (const Machine::Edge& edge : states_[state].edges) {
        edges.push_back(edge);
        cuts.push_back(edge.low);
        cuts.push_back(edge.high + 1);
      }
      for (const Machine::Call& call : states_[state].calls) calls[call.rule].push_back(call.to);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::sort(edges.begin(), edges.end(),
              [](const auto& a, const auto& b) { return a.low < b.low; });
    size_t first = 0;  // no edge before it reaches the cut
    for (size_t c = 0; c + 1 < cuts.size(); ++c) {
      while (first < edges.size() && edges[first].high < cuts[c]) ++first;
      Set targets;
      for (size_t e = first; e < edges.size() && edges[e].low <= cuts[c]; ++e) {
        if (edges[e].high >= cuts[c]) targets.push_back(edges[e].to);
      }
      if (targets.empty()) continue;
      work += targets.size();
      const uint32_t to = id_of(std::move(targets));
      const auto low = static_cast<uint8_t>(cuts[c]);
      const auto high = static_cast<uint8_t>(cuts[c + 1] - 1);
      if (!made.edges.empty() && made.edges.back().to == to && made.edges.back().high + 1 == low) {
        made.edges.back().high = high;
      } else {
        made.edges.push_back({low, high, to});
      }
    }
    for (auto& [rule, targets] : calls) made.calls.push_back({rule, id_of(std::move(targets))});
    machine.states.push_back(std::move(made));
  }
  trim(machine);
  return machine;
}

Machine Nfa::as_it_is(uint32_t start, uint32_t accept) const {
  Machine machine;
  // The start comes first.
  const auto renamed = [&](uint32_t state) {
    return state == start ? 0 : state == 0 ? start : state;
  };
  machine.states.resize(states_.size());
  for (uint32_t i = 0; i < states_.size(); ++i) {
    Machine::State& made = machine.states[renamed(i)];
    made.edges = states_[i].edges;
    made.calls = states_[i].calls;
    for (Machine::Edge& edge : made.edges) edge.to = renamed(edge.to);
    for (Machine::Call& call : made.calls) call.to = renamed(call.to);
    for (const Skip& skip : states_[i].skips) {
      LS_CHECK(skip.place == Place::kAnywhere);
      made.calls.push_back({kNothing, renamed(skip.to)});
    }
    std::sort(made.edges.begin(), made.edges.end(),
              [](const auto& a, const auto& b) { return a.low < b.low; });
  }
  machine.states[renamed(accept)].accepting = true;
  trim(machine);
  return machine;
}

}  // namespace longshore::text
