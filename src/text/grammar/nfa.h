// Nondeterministic automata while grammars and patterns are compiled, and their subset
// construction.
//
// Source: Thompson's construction (Thompson 1968); code points as ranges of UTF-8 bytes after
// table 3-7 of the Unicode standard. Threading: one thread.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "text/grammar/machine.h"

namespace longshore::text {

struct CodePointRange {
  uint32_t low;
  uint32_t high;  // inclusive
  auto operator<=>(const CodePointRange&) const = default;
};
constexpr uint32_t kMaxCodePoint = 0x10FFFF;

// Sorted and joined, surrogates left out.
std::vector<CodePointRange> normalised(std::vector<CodePointRange> ranges);
// Every code point that is in none of the ranges.
std::vector<CodePointRange> complement(std::vector<CodePointRange> ranges);

class Nfa {
 public:
  // Conditions on the place in the text, for a pattern's ^ and $.
  enum class Place : uint8_t { kAnywhere, kAtStart, kAtEnd };

  uint32_t add_state();
  void bytes(uint32_t from, uint32_t to, uint8_t low, uint8_t high);
  void text(uint32_t from, uint32_t to, std::string_view bytes);
  void code_points(uint32_t from, uint32_t to, const std::vector<CodePointRange>& ranges);
  void skip(uint32_t from, uint32_t to, Place place = Place::kAnywhere);
  void call(uint32_t from, uint32_t to, RuleId rule);
  // A copy of the machine between the two states.
  void machine(uint32_t from, uint32_t to, const Machine& machine);

  [[nodiscard]] size_t size() const { return states_.size(); }
  // Bytes that states and edges take, about.
  [[nodiscard]] size_t edges() const { return edges_; }

  // kUsage: more than `limit` states, or far more work than that.
  [[nodiscard]] Result<Machine> determinise(uint32_t start, uint32_t accept, size_t limit) const;
  // The same states with kNothing calls. No ^ or $.
  [[nodiscard]] Machine as_it_is(uint32_t start, uint32_t accept) const;

 private:
  struct Skip {
    uint32_t to;
    Place place;
  };
  struct State {
    std::vector<Machine::Edge> edges;
    std::vector<Skip> skips;
    std::vector<Machine::Call> calls;
  };
  using Set = std::vector<uint32_t>;  // ascending

  void close(Set& set, bool at_start, bool at_end, std::vector<uint8_t>& seen) const;
  void utf8(uint32_t from, uint32_t to, uint32_t low, uint32_t high);

  std::vector<State> states_;
  size_t edges_ = 0;
};

}  // namespace longshore::text
