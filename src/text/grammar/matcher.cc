#include "text/grammar/matcher.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace longshore::text {
namespace {

// Ways to read one text at one place. A grammar that has more is read in these alone: what is
// allowed stays right, some of what could be is not.
constexpr size_t kMaxConfigs = 1 << 17;
constexpr size_t kFewConfigs = 24;

size_t hash_of(const Matcher::Config& config) {
  uint64_t x = config.state * 0x9E3779B97F4A7C15ULL;
  x = (x ^ config.node) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ config.count) * 0x94D049BB133111EBULL;
  return static_cast<size_t>(x ^ (x >> 29));
}

}  // namespace

Matcher::Matcher(const Automaton& automaton)
    : automaton_(&automaton), node_of_rule_(automaton.rule_count(), 0) {
  reset();
}

void Matcher::reset() {
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
}

void Matcher::open_place() {
  places_.push_back({static_cast<uint32_t>(configs_.size()), static_cast<uint32_t>(nodes_.size()),
                     static_cast<uint32_t>(entries_.size()), false});
}

void Matcher::add(uint32_t state, uint32_t count, uint32_t node) {
  const Config config{state, count, node};
  const size_t first = places_.back().configs;
  const size_t size = configs_.size() - first;
  if (size <= kFewConfigs) {
    for (size_t i = first; i < configs_.size(); ++i) {
      if (configs_[i] == config) return;
    }
    configs_.push_back(config);
    return;
  }
  if (size >= kMaxConfigs) return;
  // The table is filled when a place grows large and again when it grows too full.
  const bool fresh = size == kFewConfigs + 1;
  if (fresh || slots_.size() < 2 * (size + 1)) {
    slots_.assign(std::bit_ceil(4 * (size + 1)), 0);
    for (size_t i = first; i < configs_.size(); ++i) {
      size_t slot = hash_of(configs_[i]) & (slots_.size() - 1);
      while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(i + 1);
    }
  }
  size_t slot = hash_of(config) & (slots_.size() - 1);
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    if (configs_[slots_[slot] - 1] == config) return;
  }
  configs_.push_back(config);
  slots_[slot] = static_cast<uint32_t>(configs_.size());
}

void Matcher::close() {
  for (size_t i = places_.back().configs; i < configs_.size(); ++i) {
    const Config config = configs_[i];
    if (automaton_->accepting(config.state, config.count)) leave(config.node);
    for (const Automaton::Call& made : automaton_->calls(config.state)) call(made, config.node);
  }
}

void Matcher::leave(uint32_t node) {
  // A call that has taken nothing: call() has gone on without it already.
  if (node >= places_.back().nodes) return;
  if (node == kBottom) {
    places_.back().ended = true;
    return;
  }
  for (uint32_t at = nodes_[node].entry; at != kNoEntry; at = entries_[at].next)
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
  for (uint32_t at = nodes_[callee].entry; at != kNoEntry; at = entries_[at].next) {
    if (entries_[at].to == made.to && entries_[at].node == node) return;
  }
  entries_.push_back({made.to, node, nodes_[callee].entry});
  nodes_[callee].entry = static_cast<uint32_t>(entries_.size() - 1);
  if (!known) add(start, 0, callee);
}

bool Matcher::push(uint8_t byte) {
  const size_t begin = places_.back().configs;
  const size_t end = configs_.size();
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
      if (byte < edge.low) break;
      if (byte <= edge.high) add(edge.to, 0, config.node);
    }
  }
  close();
  if (configs_.size() > end || places_.back().ended) return true;
  places_.pop_back();
  return false;
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
  if (nodes_.size() >= collect_at_) collect();
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
      entries.push_back({entries_[at].to, renamed[entries_[at].node], kNoEntry});
      link = &entries.back().next;
    }
    *link = kNoEntry;
  }
  for (Config& config : configs_) config.node = renamed[config.node];
  nodes_ = std::move(nodes);
  entries_ = std::move(entries);
  places_.back().nodes = static_cast<uint32_t>(nodes_.size());
  places_.back().entries = static_cast<uint32_t>(entries_.size());
  collect_at_ = std::max<size_t>(4096, 2 * nodes_.size());
}

}  // namespace longshore::text
