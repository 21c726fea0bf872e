// Which tokens may come next, for every place in one grammar, over one vocabulary.
//
// Of a configuration, the tokens that its own rule (and what that calls) takes to their end do not
// depend on what lies below it in the stack: they are found once for each state and kept. Where a
// token leaves the rule before its end, the trie node at which it does is kept beside them: from
// there the walk goes on in the state after the call, which is kept too, and so on down the stack.
// After a short while a mask is an OR of a few kept sets. (The split into tokens that depend on the
// context and those that do not: Dong et al., XGrammar, arXiv 2411.15100; the chain of contexts is
// ours.) Threading: any thread; a lock is held for look-ups, not for walks.
#pragma once

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "text/grammar/automaton.h"
#include "text/grammar/matcher.h"
#include "text/grammar/vocabulary.h"

namespace longshore::text {

// Bits of token ids, 64 in a word.
using MaskWords = std::span<uint64_t>;
[[nodiscard]] constexpr size_t mask_words(int64_t tokens) {
  return static_cast<size_t>((tokens + 63) / 64);
}

class MaskCache {
 public:
  // memory_limit: bytes that kept sets may take; beyond them sets are made anew every time.
  MaskCache(std::shared_ptr<const Automaton> automaton,
            std::shared_ptr<const Vocabulary> vocabulary, size_t memory_limit = size_t{64} << 20);
  ~MaskCache();

  // The tokens that may follow what the matcher has read; words: mask_words(vocabulary's size) of
  // them, overwritten. scratch: a matcher of the same automaton, whose place is lost. False, and no
  // tokens: the grammar is too ambiguous to find them within the work that a mask may cost.
  [[nodiscard]] bool fill(const Matcher& matcher, Matcher& scratch, MaskWords words);
  // The same without the cache: one walk over the trie.
  [[nodiscard]] static bool fill_by_walking(const Vocabulary& vocabulary, Matcher& matcher,
                                            MaskWords words);

  [[nodiscard]] const std::shared_ptr<const Automaton>& automaton() const { return automaton_; }
  [[nodiscard]] const std::shared_ptr<const Vocabulary>& vocabulary() const { return vocabulary_; }
  [[nodiscard]] size_t memory_bytes() const;

 private:
  struct Entry;
  struct Filling;
  using Table = std::unordered_map<uint64_t, std::unique_ptr<Entry>>;

  const Entry* first(const Matcher::Config& config, Filling& filling);
  const Entry* after(const Entry& entry, uint32_t state, Filling& filling);
  const Entry* find(const Table& table, uint64_t key) const;
  const Entry* keep(Table& table, uint64_t key, std::unique_ptr<Entry> made, Filling& filling);
  std::unique_ptr<Entry> walk(uint32_t state, uint32_t count, std::span<const uint32_t> from,
                              Filling& filling) const;
  void walk_leaf(uint32_t state, uint32_t count, uint32_t from, Filling& filling,
                 Entry& made) const;
  void walk_string(uint32_t state, uint32_t count, Filling& filling, Entry& made) const;
  void walk_rules(uint32_t state, uint32_t count, uint32_t from, Filling& filling,
                  Entry& made) const;
  bool fill_from_kept(Filling& filling);

  std::shared_ptr<const Automaton> automaton_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  size_t memory_limit_;
  mutable std::shared_mutex mutex_;  // of what follows, and of every entry's table
  Table first_;
  size_t memory_ = 0;
};

}  // namespace longshore::text
