// Where a text stands in a grammar: all ways to read it so far, kept together.
//
// A graph-structured stack (Tomita 1985; Scott and Johnstone, GLL 2010): a configuration is a state
// and a node; a node is one call of a rule at one place, with every way to go on after it, so that
// ways which meet share what follows. Left recursion costs nothing special; ambiguity can cost the
// cube of the text's length, so everything spends from a budget, and what goes beyond it is named
// (exhausted), never a part of the answer. Threading: one thread; the automaton outlives the
// matcher.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/grammar/automaton.h"

namespace longshore::text {

class Matcher {
 public:
  struct Config {
    uint32_t state;
    uint32_t count;  // Automaton::next
    uint32_t node;
    bool operator==(const Config&) const = default;
  };
  static constexpr uint32_t kBottom = 0;  // the node under everything: after it the text ends
  static constexpr uint32_t kNoEntry = UINT32_MAX;
  struct Entry {
    uint32_t to;    // the state after the call
    uint32_t node;  // of the caller
    uint32_t next;  // another way of the same node, or kNoEntry
    uint32_t of;    // that node
  };
  // What one token may cost, in steps of some nanoseconds each.
  static constexpr size_t kTokenWork = size_t{1} << 20;

  explicit Matcher(const Automaton& automaton);

  // Begins anew: at the root, or in a state whose caller is kBottom.
  void reset();
  void reset_to(uint32_t state, uint32_t count);

  // The budget from here on; reset(), push_all() and settle() make it kTokenWork.
  void allow(size_t work) {
    work_ = work;
    exhausted_ = false;
  }
  // False: the budget does not reach.
  bool spend(size_t work) {
    exhausted_ = exhausted_ || work > work_;
    work_ -= exhausted_ ? 0 : work;
    return !exhausted_;
  }
  // The last false was for the budget, or there was none left to begin with.
  [[nodiscard]] bool exhausted() const { return exhausted_; }

  // One byte more. False, and nothing changes: the grammar does not allow it, or exhausted().
  bool push(uint8_t byte);
  // Back to `depth` bytes after the last settle() or reset().
  void pop_to(size_t depth);
  [[nodiscard]] size_t depth() const { return places_.size() - 1; }
  // What has been pushed can no longer be popped, and costs no memory.
  void settle();

  // All bytes or none, as one token.
  bool push_all(std::string_view bytes);

  // The text may end here.
  [[nodiscard]] bool ended() const { return places_.back().ended; }
  // Nothing may follow.
  [[nodiscard]] bool complete() const;
  [[nodiscard]] std::span<const Config> configs() const {
    return std::span(configs_).subspan(places_.back().configs);
  }
  [[nodiscard]] uint32_t first_entry(uint32_t node) const { return nodes_[node].entry; }
  // The bytes that may come next, without a try of each.
  [[nodiscard]] std::bitset<256> next_bytes();
  [[nodiscard]] size_t node_count() const { return nodes_.size(); }
  [[nodiscard]] const Entry& entry(uint32_t index) const { return entries_[index]; }

 private:
  struct Node {
    RuleId rule;
    uint32_t entry;
  };
  struct Place {
    uint32_t configs;  // the first of this place
    uint32_t nodes;    // nodes from here on were made at this place
    uint32_t entries;
    bool ended;
  };

  void open_place();
  void add(uint32_t state, uint32_t count, uint32_t node);
  void close();
  void call(const Automaton::Call& call, uint32_t node);
  void leave(uint32_t node);
  void collect();

  const Automaton* automaton_;
  std::vector<Config> configs_;
  std::vector<Node> nodes_;
  std::vector<Entry> entries_;
  std::vector<Place> places_;
  std::vector<uint32_t> node_of_rule_;  // at the current place, where nodes_ says so too
  std::vector<uint32_t> config_slots_;  // hashes of a large place's configurations: index + 1
  std::vector<uint32_t> entry_slots_;   // and of its entries
  size_t work_ = kTokenWork;
  bool exhausted_ = false;
  size_t collect_at_ = 4096;  // nodes and entries
};

}  // namespace longshore::text
