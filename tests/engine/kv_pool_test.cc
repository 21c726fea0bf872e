#include "engine/kv_pool.h"

#include <set>

#include <gtest/gtest.h>

namespace longshore::engine {
namespace {

// Two layers, the second without an indexer.
model::KvLayout small_layout() {
  model::KvLayout layout;
  layout.kv_lora = 8;
  layout.index_head_dim = 4;
  layout.has_index = {true, false};
  return layout;
}

KvPool make_pool(int64_t pages) {
  auto pool = KvPool::create(small_layout(), pages);
  LS_CHECK_MSG(pool.has_value(), "{}", pool.error().message);
  return std::move(*pool);
}

TEST(KvPool, HasOneCachePerLayerAndIndexKeysOnlyWhereIndexed) {
  const KvPool pool = make_pool(3);
  EXPECT_EQ(pool.capacity(), 3);
  EXPECT_EQ(pool.free_pages(), 3);
  ASSERT_EQ(pool.caches().size(), 2U);
  EXPECT_NE(pool.caches()[0].latent.data, nullptr);
  EXPECT_NE(pool.caches()[0].index.data, nullptr);
  EXPECT_NE(pool.caches()[1].latent.data, nullptr);
  EXPECT_EQ(pool.caches()[1].index.data, nullptr);
}

TEST(KvPool, GrowAndShrinkConservePages) {
  KvPool pool = make_pool(10);
  std::vector<int32_t> a;
  std::vector<int32_t> b;
  const std::vector<std::pair<int64_t, int64_t>> steps = {{3, 2}, {5, 5},  {1, 5}, {1, 9},
                                                          {0, 0}, {10, 0}, {4, 6}};
  for (const auto& [size_a, size_b] : steps) {
    pool.shrink(a, size_a);
    pool.shrink(b, size_b);
    ASSERT_TRUE(pool.grow(a, size_a));
    ASSERT_TRUE(pool.grow(b, size_b));
    EXPECT_EQ(static_cast<int64_t>(a.size()), size_a);
    EXPECT_EQ(static_cast<int64_t>(b.size()), size_b);
    EXPECT_EQ(pool.free_pages() + size_a + size_b, pool.capacity());
    std::set<int32_t> held(a.begin(), a.end());
    held.insert(b.begin(), b.end());
    EXPECT_EQ(static_cast<int64_t>(held.size()), size_a + size_b) << "a page has two owners";
    for (int32_t page : held) EXPECT_TRUE(page >= 0 && page < 10) << page;
  }
}

TEST(KvPool, GrowKeepsTheFirstPagesAndNeverShrinks) {
  KvPool pool = make_pool(6);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.grow(pages, 2));
  const std::vector<int32_t> before = pages;
  ASSERT_TRUE(pool.grow(pages, 5));
  EXPECT_TRUE(std::equal(before.begin(), before.end(), pages.begin()));
  ASSERT_TRUE(pool.grow(pages, 1));
  EXPECT_EQ(pages.size(), 5U);
}

TEST(KvPool, RefusesToGrowWhenTooEmptyAndTakesNothing) {
  KvPool pool = make_pool(4);
  std::vector<int32_t> a;
  std::vector<int32_t> b;
  ASSERT_TRUE(pool.grow(a, 3));
  EXPECT_FALSE(pool.grow(b, 2));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_TRUE(pool.grow(b, 1));
  EXPECT_EQ(pool.free_pages(), 0);
}

TEST(KvPool, PagesForRoundsUp) {
  EXPECT_EQ(pages_for(0), 0);
  EXPECT_EQ(pages_for(1), 1);
  EXPECT_EQ(pages_for(kernels::kPageTokens), 1);
  EXPECT_EQ(pages_for(kernels::kPageTokens + 1), 2);
}

}  // namespace
}  // namespace longshore::engine
