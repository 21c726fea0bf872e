#include "engine/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr int64_t kTokens = kernels::kPageTokens;

// FNV-1a over the ids; equality is always checked on the tokens themselves.
uint64_t hash_of(uint64_t salt, const int32_t* tokens) {
  uint64_t hash = 0xCBF29CE484222325ULL ^ salt;
  for (int64_t i = 0; i < kTokens; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0x100000001B3ULL;
  }
  return hash ^ (hash >> 29);
}

}  // namespace

PrefixCache::PrefixCache(KvPool& pool, bool enabled) : pool_(&pool), enabled_(enabled), nodes_(1) {}

int32_t PrefixCache::child(int32_t parent, uint64_t salt, const int32_t* tokens) const {
  const auto found = index_.find({parent, hash_of(salt, tokens)});
  if (found == index_.end()) return 0;
  const Node& node = nodes_[static_cast<size_t>(found->second)];
  const bool same = node.salt == salt && std::equal(node.tokens.begin(), node.tokens.end(), tokens);
  return same ? found->second : 0;
}

int32_t PrefixCache::add_node(int32_t parent, uint64_t salt, const int32_t* tokens, int32_t page) {
  const Key key{parent, hash_of(salt, tokens)};
  if (index_.contains(key)) return 0;  // another chain with the same hash: this page stays private
  int32_t number = static_cast<int32_t>(nodes_.size());
  if (unused_.empty()) {
    nodes_.emplace_back();
  } else {
    number = unused_.back();
    unused_.pop_back();
  }
  Node& node = nodes_[static_cast<size_t>(number)];
  node = {.parent = parent, .page = page, .users = 1, .salt = salt, .hash = key.hash};
  std::copy_n(tokens, kTokens, node.tokens.begin());
  index_.emplace(key, number);
  ++nodes_[static_cast<size_t>(parent)].children;
  return number;
}

void PrefixCache::lock(int32_t number) {
  Node& node = nodes_[static_cast<size_t>(number)];
  if (node.users++ > 0) return;
  --unlocked_;
  if (node.children == 0) leaves_.erase({node.used, number});
}

void PrefixCache::unlock(int32_t number) {
  Node& node = nodes_[static_cast<size_t>(number)];
  LS_CHECK(node.users > 0);
  if (--node.users > 0) return;
  node.used = ++clock_;
  ++unlocked_;
  if (node.children == 0) leaves_.emplace(node.used, number);
}

// node: an unlocked leaf.
void PrefixCache::evict(int32_t number) {
  Node& node = nodes_[static_cast<size_t>(number)];
  LS_CHECK(node.users == 0 && node.children == 0 && leaves_.erase({node.used, number}) == 1);
  index_.erase({node.parent, node.hash});
  pool_->give_back(node.page);
  node.page = -1;
  unused_.push_back(number);
  --unlocked_;
  if (node.parent == 0) return;
  Node& parent = nodes_[static_cast<size_t>(node.parent)];
  if (--parent.children == 0 && parent.users == 0) leaves_.emplace(parent.used, node.parent);
}

bool PrefixCache::evict_one() {
  if (leaves_.empty()) return false;
  evict(leaves_.begin()->second);
  return true;
}

int64_t PrefixCache::known_pages(uint64_t salt, std::span<const int32_t> ids,
                                 int64_t most_pages) const {
  const int64_t most = std::min(most_pages, static_cast<int64_t>(ids.size()) / kTokens);
  int32_t node = 0;
  for (int64_t known = 0; known < most; ++known) {
    node = child(node, salt, ids.data() + known * kTokens);
    if (node == 0) return known;
  }
  return most;
}

int64_t PrefixCache::find(PageList& list, uint64_t salt, std::span<const int32_t> ids,
                          int64_t most_pages) {
  LS_CHECK(list.pages.empty());
  const int64_t most = std::min(most_pages, static_cast<int64_t>(ids.size()) / kTokens);
  while (list.shared < most) {
    const int32_t next = child(list.node, salt, ids.data() + list.shared * kTokens);
    if (next == 0) break;
    lock(next);
    list.pages.push_back(nodes_[static_cast<size_t>(next)].page);
    list.node = next;
    ++list.shared;
  }
  return list.shared;
}

bool PrefixCache::grow(PageList& list, int64_t count) {
  const int64_t missing = count - static_cast<int64_t>(list.pages.size());
  if (missing > obtainable()) return false;
  for (int64_t i = 0; i < missing; ++i) {
    if (pool_->free_pages() == 0) LS_CHECK(evict_one());
    list.pages.push_back(pool_->take());
  }
  return true;
}

void PrefixCache::publish(PageList& list, uint64_t salt, std::span<const int32_t> ids) {
  if (!enabled_) return;
  const int64_t full = static_cast<int64_t>(ids.size()) / kTokens;
  LS_CHECK(full <= static_cast<int64_t>(list.pages.size()));
  while (list.shared < full) {
    const int32_t* tokens = ids.data() + list.shared * kTokens;
    int32_t& page = list.pages[static_cast<size_t>(list.shared)];
    int32_t next = child(list.node, salt, tokens);
    if (next != 0) {
      lock(next);
      pool_->give_back(std::exchange(page, nodes_[static_cast<size_t>(next)].page));
    } else {
      next = add_node(list.node, salt, tokens, page);
      if (next == 0) return;
    }
    list.node = next;
    ++list.shared;
  }
}

void PrefixCache::release(PageList& list) {
  for (int64_t i = static_cast<int64_t>(list.pages.size()); i > list.shared; --i) {
    pool_->give_back(list.pages[static_cast<size_t>(i - 1)]);
  }
  // Leaf first: of one chain the end is the least useful.
  for (int32_t node = list.node; node != 0; node = nodes_[static_cast<size_t>(node)].parent)
    unlock(node);
  list = {};
}

void PrefixCache::discard(PageList& list) {
  int32_t number = list.node;
  release(list);
  while (number != 0) {
    const Node& node = nodes_[static_cast<size_t>(number)];
    if (node.users > 0 || node.children > 0) return;  // others rely on it
    const int32_t parent = node.parent;
    evict(number);
    number = parent;
  }
}

void PrefixCache::clear() {
  while (evict_one()) {
  }
}

std::vector<int32_t> PrefixCache::tree_pages() const {
  std::vector<int32_t> pages;
  for (const auto& [key, number] : index_)
    pages.push_back(nodes_[static_cast<size_t>(number)].page);
  return pages;
}

}  // namespace longshore::engine
