#include "text/grammar/mask_cache.h"

#include <algorithm>
#include <bitset>
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "base/check.h"

namespace longshore::text {
namespace {

// What one walk may cost, in the matcher's steps, and new kept sets: these are made once.
size_t walk_work(const Vocabulary& vocabulary) {
  return (size_t{1} << 20) + 4 * vocabulary.nodes().size();
}
size_t kept_work(const Vocabulary& vocabulary) {
  return 2 * walk_work(vocabulary);
}
// Steps that a look-up and a new set cost.
constexpr size_t kFindWork = 4;
constexpr size_t kMakeWork = 64;

void set_bit(MaskWords words, int32_t id) {
  words[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<uint32_t>(id) % 64);
}

// Tries no byte that cannot come where a trie node has many after it.
class NextBytes {
 public:
  NextBytes(Matcher& matcher, uint32_t longest) : matcher_(matcher), of_depth_(longest + 1) {}
  // At a node of that depth, with the matcher there, whose subtree ends `size` nodes on.
  void note(size_t depth, size_t size) {
    constexpr size_t kMany = 64;
    if (size > kMany) {
      of_depth_[depth] = matcher_.next_bytes();
    } else {
      of_depth_[depth].set();
    }
  }
  [[nodiscard]] bool may_follow(size_t depth, uint8_t byte) const {
    return of_depth_[depth].test(byte);
  }

 private:
  Matcher& matcher_;
  std::vector<std::bitset<256>> of_depth_;
};

}  // namespace

// What one state allows over the subtrees of some trie nodes.
struct MaskCache::Entry {
  // The tokens: as ids, or as a mask where that is smaller.
  std::vector<int32_t> ids;
  std::vector<uint64_t> words;
  std::vector<uint32_t> exits;  // trie nodes at which the rule is left, with tokens that go on
  Table after;                  // by the state after the call

  void compact(size_t mask_size) {
    if (!words.empty() || ids.size() * sizeof(int32_t) > mask_size * sizeof(uint64_t)) {
      words.resize(mask_size, 0);
      for (const int32_t id : ids) set_bit(words, id);
      ids = {};
    }
    ids.shrink_to_fit();
    exits.shrink_to_fit();
  }
  [[nodiscard]] size_t memory_bytes() const {
    return sizeof(Entry) + 64 + ids.size() * sizeof(int32_t) + words.size() * sizeof(uint64_t) +
           exits.size() * sizeof(uint32_t);
  }
};

struct MaskCache::Filling {
  struct Hash {
    size_t operator()(const std::pair<const Entry*, uint32_t>& key) const {
      return std::hash<const Entry*>()(key.first) ^ (key.second * 0x9E3779B97F4A7C15ULL);
    }
  };

  const Matcher& matcher;
  Matcher& scratch;  // its budget is the filling's
  MaskWords words;
  std::vector<std::pair<uint32_t, uint32_t>> path;  // a leaf's state and count by depth
  std::vector<std::unique_ptr<Entry>> temporary;    // beyond the memory limit
  // Sets and the nodes that their exits return to; each once, however many ways lead there.
  std::vector<std::pair<const Entry*, uint32_t>> exits;
  std::unordered_set<std::pair<const Entry*, uint32_t>, Hash> seen;

  void reach(const Entry& entry, uint32_t node) {
    if (seen.emplace(&entry, Matcher::kBottom).second) add(entry);
    if (entry.exits.empty() || node == Matcher::kBottom) return;
    if (seen.emplace(&entry, node).second) exits.emplace_back(&entry, node);
  }
  void add(const Entry& entry) {
    scratch.spend((entry.ids.size() + entry.words.size()) / 16);
    for (const int32_t id : entry.ids) set_bit(words, id);
    for (size_t i = 0; i < entry.words.size(); ++i) words[i] |= entry.words[i];
  }
};

MaskCache::MaskCache(std::shared_ptr<const Automaton> automaton,
                     std::shared_ptr<const Vocabulary> vocabulary, size_t memory_limit)
    : automaton_(std::move(automaton)),
      vocabulary_(std::move(vocabulary)),
      memory_limit_(memory_limit) {}
MaskCache::~MaskCache() = default;

size_t MaskCache::memory_bytes() const {
  const std::shared_lock lock(mutex_);
  return memory_;
}

const MaskCache::Entry* MaskCache::find(const Table& table, uint64_t key) const {
  const std::shared_lock lock(mutex_);
  const auto found = table.find(key);
  return found == table.end() ? nullptr : found->second.get();
}

const MaskCache::Entry* MaskCache::keep(Table& table, uint64_t key, std::unique_ptr<Entry> made,
                                        Filling& filling) {
  made->compact(filling.words.size());
  const size_t bytes = made->memory_bytes();
  const std::unique_lock lock(mutex_);
  if (memory_ + bytes > memory_limit_) {
    filling.temporary.push_back(std::move(made));
    return filling.temporary.back().get();
  }
  // Another thread may have been faster: its entry is the same.
  const auto [at, is_new] = table.emplace(key, std::move(made));
  if (is_new) memory_ += bytes;
  return at->second.get();
}

const MaskCache::Entry* MaskCache::first(const Matcher::Config& config, Filling& filling) {
  const uint32_t count =
      automaton_->count_class(config.state, config.count, vocabulary_->longest());
  const uint64_t key = (uint64_t{count} << 32) | config.state;
  if (const Entry* known = find(first_, key)) return known;
  constexpr uint32_t kRoot = 0;
  auto made = walk(config.state, config.count, {&kRoot, 1}, filling);
  return made == nullptr ? nullptr : keep(first_, key, std::move(made), filling);
}

const MaskCache::Entry* MaskCache::after(const Entry& entry, uint32_t state, Filling& filling) {
  if (const Entry* known = find(entry.after, state)) return known;
  // Of a temporary entry, its table goes with it.
  auto& table = const_cast<Table&>(entry.after);
  auto made = walk(state, 0, entry.exits, filling);
  return made == nullptr ? nullptr : keep(table, state, std::move(made), filling);
}

std::unique_ptr<MaskCache::Entry> MaskCache::walk(uint32_t state, uint32_t count,
                                                  std::span<const uint32_t> from,
                                                  Filling& filling) const {
  auto made = std::make_unique<Entry>();
  if (!filling.scratch.spend(kMakeWork + filling.words.size() / 4)) return nullptr;
  const bool leaf = automaton_->in_leaf(state);
  for (const uint32_t node : from) {
    if (leaf && node == 0 && automaton_->takes_plain(state)) {
      walk_string(state, count, filling, *made);
    } else if (leaf) {
      walk_leaf(state, count, node, filling, *made);
    } else {
      walk_rules(state, count, node, filling, *made);
    }
    if (filling.scratch.exhausted()) return nullptr;
  }
  return made;
}

// At the root a rule that may end at once is no exit: its caller is a configuration of its own.
void MaskCache::walk_leaf(uint32_t state, uint32_t count, uint32_t from, Filling& filling,
                          Entry& made) const {
  const std::span<const Vocabulary::Node> nodes = vocabulary_->nodes();
  const uint32_t end = nodes[from].end;
  filling.path.resize(vocabulary_->longest() + 1);
  filling.path[nodes[from].depth] = {state, count};
  if (from != 0 && automaton_->accepting(state, count)) made.exits.push_back(from);
  for (uint32_t node = from + 1; node < end;) {
    const Vocabulary::Node& at = nodes[node];
    if (!filling.scratch.spend(1)) return;
    auto [last, so_far] = filling.path[at.depth - 1U];
    const uint32_t next = automaton_->next(last, so_far, at.byte);
    if (next == Automaton::kNone) {
      node = at.end;
      continue;
    }
    const auto ids = vocabulary_->ids_of(node);
    made.ids.insert(made.ids.end(), ids.begin(), ids.end());
    if (at.end > node + 1 && automaton_->accepting(next, so_far)) made.exits.push_back(node);
    filling.path[at.depth] = {next, so_far};
    ++node;
  }
}

// In the middle of a string: plain tokens by their length, the others one by one.
void MaskCache::walk_string(uint32_t state, uint32_t count, Filling& filling, Entry& made) const {
  const auto plain = vocabulary_->plain(automaton_->room(state, count));
  made.words.assign(plain.begin(), plain.end());
  const std::span<const Vocabulary::Node> nodes = vocabulary_->others();
  filling.path.resize(vocabulary_->longest() + 1);
  filling.path[0] = {state, count};
  for (uint32_t node = 1; node < nodes.size();) {
    const Vocabulary::Node& at = nodes[node];
    if (!filling.scratch.spend(1)) return;
    auto [last, so_far] = filling.path[at.depth - 1U];
    const uint32_t next = automaton_->next(last, so_far, at.byte);
    if (next == Automaton::kNone) {
      node = at.end;
      continue;
    }
    const auto ids = vocabulary_->ids_of(at.ids);
    made.ids.insert(made.ids.end(), ids.begin(), ids.end());
    if (at.end > node + 1 && automaton_->accepting(next, so_far)) made.exits.push_back(at.ids);
    filling.path[at.depth] = {next, so_far};
    ++node;
  }
}

void MaskCache::walk_rules(uint32_t state, uint32_t count, uint32_t from, Filling& filling,
                           Entry& made) const {
  const std::span<const Vocabulary::Node> nodes = vocabulary_->nodes();
  const uint32_t end = nodes[from].end;
  Matcher& scratch = filling.scratch;
  scratch.reset_to(state, count);
  if (from != 0 && scratch.ended()) made.exits.push_back(from);
  NextBytes next(scratch, vocabulary_->longest());
  next.note(nodes[from].depth, end - from);
  for (uint32_t node = from + 1; node < end;) {
    const Vocabulary::Node& at = nodes[node];
    scratch.pop_to(at.depth - nodes[from].depth - 1U);
    if (!next.may_follow(at.depth - 1U, at.byte) || !scratch.push(at.byte)) {
      if (scratch.exhausted()) return;
      node = at.end;
      continue;
    }
    const auto ids = vocabulary_->ids_of(node);
    made.ids.insert(made.ids.end(), ids.begin(), ids.end());
    if (at.end > node + 1 && scratch.ended()) made.exits.push_back(node);
    next.note(at.depth, at.end - node);
    ++node;
  }
}

// False: too many steps.
bool MaskCache::fill_from_kept(Filling& filling) {
  for (const Matcher::Config& config : filling.matcher.configs()) {
    if (!automaton_->takes_bytes(config.state)) continue;
    if (!filling.scratch.spend(kFindWork)) return false;
    const Entry* entry = first(config, filling);
    if (entry == nullptr) return false;
    filling.reach(*entry, config.node);
  }
  const Matcher& matcher = filling.matcher;
  while (!filling.exits.empty()) {
    const auto [entry, node] = filling.exits.back();
    filling.exits.pop_back();
    uint32_t state = Automaton::kNone;
    const Entry* next = nullptr;
    for (uint32_t at = matcher.first_entry(node); at != Matcher::kNoEntry;
         at = matcher.entry(at).next) {
      if (!filling.scratch.spend(kFindWork)) return false;
      const Matcher::Entry& way = matcher.entry(at);
      if (way.to != state) next = after(*entry, way.to, filling);
      state = way.to;
      if (next == nullptr) return false;
      filling.reach(*next, way.node);
    }
  }
  return !filling.scratch.exhausted();
}

bool MaskCache::fill(const Matcher& matcher, Matcher& scratch, MaskWords words) {
  LS_CHECK(words.size() == mask_words(vocabulary_->size()));
  std::fill(words.begin(), words.end(), 0);
  scratch.allow(kept_work(*vocabulary_));
  Filling filling{matcher, scratch, words, {}, {}, {}, {}};
  if (fill_from_kept(filling)) return true;
  scratch = matcher;
  scratch.settle();
  return fill_by_walking(*vocabulary_, scratch, words);
}

bool MaskCache::fill_by_walking(const Vocabulary& vocabulary, Matcher& matcher, MaskWords words) {
  std::fill(words.begin(), words.end(), 0);
  const std::span<const Vocabulary::Node> nodes = vocabulary.nodes();
  const size_t depth = matcher.depth();
  matcher.allow(walk_work(vocabulary));
  NextBytes next(matcher, vocabulary.longest());
  next.note(0, nodes.size());
  for (uint32_t node = 1; node < nodes.size();) {
    const Vocabulary::Node& at = nodes[node];
    matcher.pop_to(depth + at.depth - 1U);
    if (!next.may_follow(at.depth - 1U, at.byte) || !matcher.push(at.byte)) {
      if (matcher.exhausted()) break;
      node = at.end;
      continue;
    }
    for (const int32_t id : vocabulary.ids_of(node)) set_bit(words, id);
    next.note(at.depth, at.end - node);
    ++node;
  }
  matcher.pop_to(depth);
  if (matcher.exhausted()) std::fill(words.begin(), words.end(), 0);
  return !matcher.exhausted();
}

}  // namespace longshore::text
