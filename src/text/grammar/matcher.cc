#include "text/grammar/matcher.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace longshore::text {
namespace {

// Entries that a text may keep alive: beyond them it reads in too many ways.
constexpr size_t kMaxEntries = size_t{1} << 20;
// Up to here comparing with each is faster than a hash.
constexpr size_t kFew = 24;

size_t mixed(uint32_t a, uint32_t b, uint32_t c) {
  uint64_t x = a * 0x9E3779B97F4A7C15ULL;
  x = (x ^ b) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ c) * 0x94D049BB133111EBULL;
  return static_cast<size_t>(x ^ (x >> 29));
}

size_t hash_of(const Matcher::Config& config) {
  return mixed(config.state, config.node, config.count);
}
size_t hash_of(const Matcher::Entry& entry) {
  return mixed(entry.to, entry.node, entry.of);
}
bool same(const Matcher::Config& a, const Matcher::Config& b) {
  return a == b;
}
bool same(const Matcher::Entry& a, const Matcher::Entry& b) {
  return a.to == b.to && a.node == b.node && a.of == b.of;
}

// Adds what the list does not hold from `first` on; false where it does. slots: the hashes of a
// long part, made when it grows long and again when they grow too full.
template <typename Item>
bool add_once(std::vector<Item>& list, size_t first, std::vector<uint32_t>& slots,
              const Item& item) {
  const size_t size = list.size() - first;
  if (size <= kFew) {
    for (size_t i = first; i < list.size(); ++i) {
      if (same(list[i], item)) return false;
    }
    list.push_back(item);
    return true;
  }
  if (size == kFew + 1 || slots.size() < 2 * (size + 1)) {
    slots.assign(std::bit_ceil(4 * (size + 1)), 0);
    for (size_t i = first; i < list.size(); ++i) {
      size_t slot = hash_of(list[i]) & (slots.size() - 1);
      while (slots[slot] != 0) slot = (slot + 1) & (slots.size() - 1);
      slots[slot] = static_cast<uint32_t>(i + 1);
    }
  }
  size_t slot = hash_of(item) & (slots.size() - 1);
  for (; slots[slot] != 0; slot = (slot + 1) & (slots.size() - 1)) {
    if (same(list[slots[slot] - 1], item)) return false;
  }
  list.push_back(item);
  slots[slot] = static_cast<uint32_t>(list.size());
  return true;
}

}  // namespace

Matcher::Matcher(const Automaton& automaton)
    : automaton_(&automaton), node_of_rule_(automaton.rule_count(), 0) {
  reset();
}

void Matcher::reset() {
  allow(kTokenWork);
  reset_to(automaton_->start(automaton_->root()), 0);
}

void Matcher::reset_to(uint32_t state, uint32_t count) {
  configs_.clear();
  entries_.clear();
  places_.clear();
  nodes_.assign(1, {kNothing, kNoEntry});
  open_place();
  add(state, count, kBottom);
  close();
  if (!exhausted_) return;
  configs_.clear();
  places_.back().ended = false;
}

void Matcher::open_place() {
  places_.push_back({static_cast<uint32_t>(configs_.size()), static_cast<uint32_t>(nodes_.size()),
                     static_cast<uint32_t>(entries_.size()), false});
}

void Matcher::add(uint32_t state, uint32_t count, uint32_t node) {
  if (spend(1)) add_once(configs_, places_.back().configs, config_slots_, {state, count, node});
}

void Matcher::close() {
  for (size_t i = places_.back().configs; i < configs_.size() && !exhausted_; ++i) {
    const Config config = configs_[i];
    if (automaton_->accepting(config.state, config.count)) leave(config.node);
    for (const Automaton::Call& made : automaton_->calls(config.state)) {
      if (!spend(1)) return;
      call(made, config.node);
    }
  }
}

void Matcher::leave(uint32_t node) {
  // A call that has taken nothing: call() has gone on without it already.
  if (node >= places_.back().nodes) return;
  if (node == kBottom) {
    places_.back().ended = true;
    return;
  }
  for (uint32_t at = nodes_[node].entry; at != kNoEntry && !exhausted_; at = entries_[at].next)
    add(entries_[at].to, 0, entries_[at].node);
}

void Matcher::call(const Automaton::Call& made, uint32_t node) {
  if (made.rule == kNothing) return add(made.to, 0, node);
  const uint32_t start = automaton_->start(made.rule);
  if (made.to == Automaton::kNone) {
    if (automaton_->nullable(made.rule)) leave(node);
    return add(start, 0, node);
  }
  if (automaton_->nullable(made.rule)) add(made.to, 0, node);
  uint32_t& callee = node_of_rule_[made.rule];
  const bool known =
      callee >= places_.back().nodes && callee < nodes_.size() && nodes_[callee].rule == made.rule;
  if (!known) {
    callee = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back({made.rule, kNoEntry});
  }
  // Nodes of this place have no entries of earlier ones.
  if (!add_once(entries_, places_.back().entries, entry_slots_,
                {made.to, node, nodes_[callee].entry, callee}))
    return;
  nodes_[callee].entry = static_cast<uint32_t>(entries_.size() - 1);
  if (!known) add(start, 0, callee);
}

bool Matcher::push(uint8_t byte) {
  const size_t begin = places_.back().configs;
  const size_t end = configs_.size();
  if (!spend(end - begin)) return false;
  open_place();
  for (size_t i = begin; i < end; ++i) {
    const Config config = configs_[i];
    if (automaton_->deterministic(config.state)) {
      uint32_t count = config.count;
      const uint32_t to = automaton_->next(config.state, count, byte);
      if (to != Automaton::kNone) add(to, count, config.node);
      continue;
    }
    for (const Machine::Edge& edge : automaton_->edges(config.state)) {
      if (byte < edge.low || !spend(1)) break;
      if (byte <= edge.high) add(edge.to, 0, config.node);
    }
  }
  close();
  if (!exhausted_ && (configs_.size() > end || places_.back().ended)) return true;
  pop_to(depth() - 1);
  return false;
}

std::bitset<256> Matcher::next_bytes() {
  std::bitset<256> made;
  for (const Config& config : configs()) {
    const std::span<const Machine::Edge> edges = automaton_->edges(config.state);
    if (!spend(1 + edges.size())) break;
    for (const Machine::Edge& edge : edges) {
      for (size_t byte = edge.low; byte <= edge.high; ++byte) made.set(byte);
    }
  }
  return made;
}

void Matcher::pop_to(size_t depth) {
  if (depth + 1 >= places_.size()) return;
  const Place& place = places_[depth + 1];
  configs_.resize(place.configs);
  nodes_.resize(place.nodes);
  entries_.resize(place.entries);
  places_.resize(depth + 1);
}

bool Matcher::push_all(std::string_view bytes) {
  const size_t before = depth();
  allow(kTokenWork);
  for (const char c : bytes) {
    if (push(static_cast<uint8_t>(c))) continue;
    pop_to(before);
    return false;
  }
  return true;
}

bool Matcher::complete() const {
  if (!ended()) return false;
  for (const Config& config : configs()) {
    if (automaton_->takes_bytes(config.state)) return false;
  }
  return true;
}

void Matcher::settle() {
  Place last = places_.back();
  configs_.erase(configs_.begin(), configs_.begin() + last.configs);
  last.configs = 0;
  places_.assign(1, last);
  allow(kTokenWork);
  if (nodes_.size() + entries_.size() < collect_at_) return;
  collect();
  exhausted_ = entries_.size() > kMaxEntries;
}

// Keeps the nodes that a configuration can still return to.
void Matcher::collect() {
  std::vector<uint32_t> renamed(nodes_.size(), kNoEntry);
  std::vector<uint32_t> work;
  const auto keep = [&](uint32_t node) {
    if (renamed[node] != kNoEntry) return;
    renamed[node] = 0;
    work.push_back(node);
  };
  keep(kBottom);
  for (const Config& config : configs_) keep(config.node);
  while (!work.empty()) {
    const uint32_t node = work.back();
    work.pop_back();
    for (uint32_t at = nodes_[node].entry; at != kNoEntry; at = entries_[at].next)
      keep(entries_[at].node);
  }
  std::vector<Node> nodes;
  for (uint32_t node = 0; node < nodes_.size(); ++node) {
    if (renamed[node] == kNoEntry) continue;
    renamed[node] = static_cast<uint32_t>(nodes.size());
    nodes.push_back(nodes_[node]);
  }
  std::vector<Entry> entries;
  entries.reserve(entries_.size());  // `link` points into it
  for (Node& node : nodes) {
    uint32_t* link = &node.entry;
    for (uint32_t at = node.entry; at != kNoEntry; at = entries_[at].next) {
      *link = static_cast<uint32_t>(entries.size());
      entries.push_back(
          {entries_[at].to, renamed[entries_[at].node], kNoEntry, renamed[entries_[at].of]});
      link = &entries.back().next;
    }
    *link = kNoEntry;
  }
  for (Config& config : configs_) config.node = renamed[config.node];
  nodes_ = std::move(nodes);
  entries_ = std::move(entries);
  places_.back().nodes = static_cast<uint32_t>(nodes_.size());
  places_.back().entries = static_cast<uint32_t>(entries_.size());
  collect_at_ = std::max<size_t>(4096, 2 * (nodes_.size() + entries_.size()));
}

}  // namespace longshore::text
