// Who holds which cache page: pages in use by sequences, and finished prefixes kept for whoever
// asks for them next.
//
// A prefix is a chain of full pages (64 tokens each); the chains form a tree whose nodes own their
// page. A sequence's PageList begins with pages of the tree, which it locks, and goes on with pages
// of its own. When one of its own pages is full it can be published: it becomes a node, or, where
// another sequence has published the same tokens before, it is given back and that node's page is
// used instead. A page holds latents and index keys alike, so neither is ever kept without the
// other. Unlocked nodes are taken back, least recently used leaf first, when the pool runs out.
//
// Ownership: the pool outlives the cache. Every page that the pool has given out belongs to exactly
// one node or one list. Threading: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/kv_pool.h"

namespace longshore::engine {

// The pages of one sequence, in order of position. Only PrefixCache changes it.
struct PageList {
  std::vector<int32_t> pages;
  int64_t shared = 0;  // of these, the first ones: pages of the tree, locked
  int32_t node = 0;    // the last of them; 0: none
};

class PrefixCache {
 public:
  // enabled == false: nothing is published, so nothing is found.
  PrefixCache(KvPool& pool, bool enabled);

  // Whole pages of ids that are known, at most `most_pages`; locks nothing and counts as no use.
  [[nodiscard]] int64_t known_pages(uint64_t salt, std::span<const int32_t> ids,
                                    int64_t most_pages) const;
  // Gives an empty list the longest known prefix of ids, at most `most_pages` pages. Returns the
  // number of pages.
  int64_t find(PageList& list, uint64_t salt, std::span<const int32_t> ids, int64_t most_pages);
  // Appends own pages until the list holds `count`, taking back unlocked nodes as needed. False,
  // and nothing is taken, if there are not enough.
  [[nodiscard]] bool grow(PageList& list, int64_t count);
  // Moves the list's own pages that ids fills completely into the tree. ids: the tokens whose
  // caches are written.
  void publish(PageList& list, uint64_t salt, std::span<const int32_t> ids);
  // Unlocks the shared pages, frees the others, empties the list.
  void release(PageList& list);
  // As release(), but what nobody else uses of the list's pages is forgotten: their content is not
  // to be trusted.
  void discard(PageList& list);
  // Takes back every unlocked node.
  void clear();

  [[nodiscard]] bool enabled() const { return enabled_; }
  [[nodiscard]] int64_t cached_pages() const { return unlocked_; }  // unlocked nodes
  [[nodiscard]] int64_t nodes() const { return static_cast<int64_t>(index_.size()); }
  // Pages that grow() can find: free ones and unlocked nodes.
  [[nodiscard]] int64_t obtainable() const { return pool_->free_pages() + unlocked_; }
  // Pages of the tree, each once; for conservation checks.
  [[nodiscard]] std::vector<int32_t> tree_pages() const;

 private:
  using Tokens = std::array<int32_t, kernels::kPageTokens>;
  struct Node {
    int32_t parent = 0;
    int32_t page = -1;
    int32_t users = 0;  // sequences whose list contains this page
    int32_t children = 0;
    uint64_t used = 0;  // time of the last unlock
    uint64_t salt = 0;
    uint64_t hash = 0;
    Tokens tokens{};
  };
  struct Key {
    int32_t parent;
    uint64_t hash;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return key.hash ^ (static_cast<uint64_t>(key.parent) << 32);
    }
  };

  // The child of `parent` for the 64 tokens at `tokens`, or 0.
  [[nodiscard]] int32_t child(int32_t parent, uint64_t salt, const int32_t* tokens) const;
  int32_t add_node(int32_t parent, uint64_t salt, const int32_t* tokens, int32_t page);
  void lock(int32_t node);
  void unlock(int32_t node);
  bool evict_one();
  void evict(int32_t node);

  KvPool* pool_;
  bool enabled_;
  std::vector<Node> nodes_;      // [0] is the root and owns no page
  std::vector<int32_t> unused_;  // indices of nodes_
  std::unordered_map<Key, int32_t, KeyHash> index_;
  std::set<std::pair<uint64_t, int32_t>> leaves_;  // unlocked nodes without children: (used, node)
  int64_t unlocked_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace longshore::engine
