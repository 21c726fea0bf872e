// The cache pages of all sequences: one pool, latents and index keys of a page allocated and freed
// together.
//
// Ownership: the pool owns its part of the layout's memory; whoever took a page gives it back once.
// Threading: one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "device/buffer.h"
#include "model/kv_layout.h"

namespace longshore::engine {

class KvPool {
 public:
  // Error kMemory with the size. Host memory is taken page by page as tokens are written, a
  // device's at once.
  static Result<KvPool> create(const model::KvLayout& layout, int64_t pages);

  [[nodiscard]] int64_t capacity() const { return capacity_; }
  [[nodiscard]] int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  [[nodiscard]] std::span<const model::LayerCache> caches() const { return caches_; }

  // A page of undefined content; there must be a free one.
  [[nodiscard]] int32_t take();
  void give_back(int32_t page);

  // Appends pages to `pages` until it holds `count`. False, and nothing taken, when the pool is too
  // empty.
  [[nodiscard]] bool grow(std::vector<int32_t>& pages, int64_t count);
  // Gives back the pages past the first `count`.
  void shrink(std::vector<int32_t>& pages, int64_t count);

 private:
  int64_t capacity_ = 0;
  std::vector<int32_t> free_;
  std::vector<device::Buffer> buffers_;
  std::vector<model::LayerCache> caches_;
};

[[nodiscard]] constexpr int64_t pages_for(int64_t tokens) {
  return (tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
}

}  // namespace longshore::engine
