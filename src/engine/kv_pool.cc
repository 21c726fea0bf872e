#include "engine/kv_pool.h"

namespace longshore::engine {

Result<KvPool> KvPool::create(const model::KvLayout& layout, int64_t pages) {
  LS_CHECK(pages >= 1);
  KvPool pool;
  pool.capacity_ = pages;
  for (int64_t page = pages; page-- > 0;) pool.free_.push_back(static_cast<int32_t>(page));
  for (int64_t layer = 0; layer < layout.layers(); ++layer) {
    const bool indexed = layout.has_index[static_cast<size_t>(layer)];
    LS_TRY(device::Buffer latent,
           device::Buffer::allocate(*layout.memory, pages * layout.latent_page_bytes(),
                                    "latent cache"));
    LS_TRY(device::Buffer index,
           device::Buffer::allocate(*layout.memory, indexed ? pages * layout.index_page_bytes() : 0,
                                    "index key cache"));
    model::LayerCache cache;
    cache.latent = {latent.data(), layout.latent_dtype, layout.kv_lora, layout.rope_dim};
    if (indexed) cache.index = {index.data(), layout.index_dtype, layout.index_head_dim};
    pool.caches_.push_back(cache);
    pool.buffers_.push_back(std::move(latent));
    pool.buffers_.push_back(std::move(index));
  }
  return pool;
}

int32_t KvPool::take() {
  LS_CHECK(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void KvPool::give_back(int32_t page) {
  LS_CHECK(page >= 0 && page < capacity_ && free_pages() < capacity_);
  free_.push_back(page);
}

bool KvPool::grow(std::vector<int32_t>& pages, int64_t count) {
  const int64_t missing = count - static_cast<int64_t>(pages.size());
  if (missing > free_pages()) return false;
  for (int64_t i = 0; i < missing; ++i) pages.push_back(take());
  return true;
}

void KvPool::shrink(std::vector<int32_t>& pages, int64_t count) {
  LS_CHECK(count >= 0);
  while (static_cast<int64_t>(pages.size()) > count) {
    give_back(pages.back());
    pages.pop_back();
  }
}

}  // namespace longshore::engine
