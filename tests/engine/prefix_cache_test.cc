#include "engine/prefix_cache.h"

#include <numeric>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace longshore::engine {
namespace {

KvPool make_pool(int64_t pages) {
  model::KvLayout layout;
  layout.kv_lora = 8;
  layout.has_index = {false};
  auto pool = KvPool::create(layout, pages);
  LS_CHECK(pool.has_value());
  return std::move(*pool);
}

std::vector<int32_t> ids_from(int32_t first, int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// A list with the cached prefix of ids and pages for the rest, all of it written and published.
PageList filled(PrefixCache& cache, const std::vector<int32_t>& ids, uint64_t salt = 0) {
  PageList list;
  const auto tokens = static_cast<int64_t>(ids.size());
  cache.find(list, salt, ids, tokens);
  LS_CHECK(cache.grow(list, pages_for(tokens)));
  cache.publish(list, salt, ids);
  return list;
}

TEST(PrefixCache, FindsWholePagesOfWhatWasPublished) {
  KvPool pool = make_pool(10);
  PrefixCache cache(pool, true);
  PageList first = filled(cache, ids_from(0, 200));
  const std::vector<int32_t> pages = first.pages;
  EXPECT_EQ(first.shared, 3);
  cache.release(first);
  EXPECT_EQ(cache.cached_pages(), 3);
  EXPECT_EQ(pool.free_pages(), 7);

  PageList again;
  EXPECT_EQ(cache.find(again, 0, ids_from(0, 150), 10), 2);
  EXPECT_EQ(again.pages, std::vector<int32_t>(pages.begin(), pages.begin() + 2));
  PageList limited;
  EXPECT_EQ(cache.find(limited, 0, ids_from(0, 200), 1), 1);
  PageList other;
  EXPECT_EQ(cache.find(other, 0, ids_from(1, 200), 10), 0);
  PageList salted;
  EXPECT_EQ(cache.find(salted, 5, ids_from(0, 200), 10), 0);
}

TEST(PrefixCache, TheSameTokensInAnotherPlaceAreAnotherPage) {
  KvPool pool = make_pool(10);
  PrefixCache cache(pool, true);
  std::vector<int32_t> twice = ids_from(0, 64);
  const std::vector<int32_t> page = twice;
  twice.insert(twice.end(), page.begin(), page.end());
  PageList list = filled(cache, twice);
  EXPECT_EQ(list.shared, 2);
  EXPECT_NE(list.pages[0], list.pages[1]);
  std::vector<int32_t> other = ids_from(500, 64);
  other.insert(other.end(), page.begin(), page.end());
  PageList found;
  EXPECT_EQ(cache.find(found, 0, other, 2), 0) << "a page is known by all that comes before it";
}

TEST(PrefixCache, ADuplicateIsGivenBackAndThePublishedPageIsUsed) {
  KvPool pool = make_pool(10);
  PrefixCache cache(pool, true);
  const std::vector<int32_t> ids = ids_from(0, 100);
  PageList a;
  PageList b;
  ASSERT_TRUE(cache.grow(a, 2));
  ASSERT_TRUE(cache.grow(b, 2));
  cache.publish(a, 0, ids);
  cache.publish(b, 0, ids);
  EXPECT_EQ(a.pages[0], b.pages[0]);
  EXPECT_NE(a.pages[1], b.pages[1]) << "a page that is not full is never shared";
  EXPECT_EQ(pool.free_pages(), 7);
  cache.release(a);
  EXPECT_EQ(cache.cached_pages(), 0) << "b still uses it";
  cache.release(b);
  EXPECT_EQ(cache.cached_pages(), 1);
  EXPECT_EQ(pool.free_pages(), 9);
}

TEST(PrefixCache, TakesBackTheLeastRecentlyUsedLeafFirst) {
  KvPool pool = make_pool(6);
  PrefixCache cache(pool, true);
  PageList old_chain = filled(cache, ids_from(0, 128));
  PageList new_chain = filled(cache, ids_from(1000, 128));
  cache.release(old_chain);
  cache.release(new_chain);
  PageList wanting;
  ASSERT_TRUE(cache.grow(wanting, 3));  // two were free
  PageList found;
  EXPECT_EQ(cache.find(found, 0, ids_from(0, 128), 2), 1)
      << "the end of the older chain went first";
  cache.release(found);
  ASSERT_TRUE(cache.grow(wanting, 5));
  EXPECT_EQ(cache.find(found, 0, ids_from(0, 128), 2), 1)
      << "just used: now the younger chain is the older one";
  cache.release(found);
  EXPECT_EQ(cache.find(found, 0, ids_from(1000, 128), 2), 0);
}

TEST(PrefixCache, NeverTakesBackWhatASequenceUses) {
  KvPool pool = make_pool(4);
  PrefixCache cache(pool, true);
  PageList used = filled(cache, ids_from(0, 128));
  PageList wanting;
  EXPECT_FALSE(cache.grow(wanting, 3));
  EXPECT_TRUE(wanting.pages.empty());
  EXPECT_TRUE(cache.grow(wanting, 2));
  EXPECT_EQ(cache.obtainable(), 0);
  cache.release(used);
  EXPECT_EQ(cache.obtainable(), 2);
}

TEST(PrefixCache, WhatIsDiscardedIsForgottenAsFarAsNobodyElseUsesIt) {
  KvPool pool = make_pool(10);
  PrefixCache cache(pool, true);
  PageList first = filled(cache, ids_from(0, 64));
  std::vector<int32_t> longer = ids_from(0, 64);
  const std::vector<int32_t> end = ids_from(700, 130);
  longer.insert(longer.end(), end.begin(), end.end());
  PageList second = filled(cache, longer);
  EXPECT_EQ(second.shared, 3);
  cache.discard(second);
  EXPECT_EQ(cache.known_pages(0, longer, 10), 1) << "the first page is in use";
  EXPECT_EQ(cache.cached_pages(), 0);
  EXPECT_EQ(pool.free_pages(), 9);
  cache.release(first);
  EXPECT_EQ(cache.cached_pages(), 1);
}

TEST(PrefixCache, SwitchedOffPublishesNothing) {
  KvPool pool = make_pool(4);
  PrefixCache cache(pool, false);
  PageList list = filled(cache, ids_from(0, 128));
  EXPECT_EQ(list.shared, 0);
  cache.release(list);
  EXPECT_EQ(pool.free_pages(), 4);
}

// Random use against a plain model: every page has one owner, and what is found are the pages that
// hold those tokens.
TEST(PrefixCache, RandomUseConservesPagesAndFindsOnlyTheRightOnes) {
  KvPool pool = make_pool(24);
  PrefixCache cache(pool, true);
  std::mt19937 random(3);
  std::vector<std::vector<int32_t>> content(
      24);  // what was "written" into each page: its whole prefix
  struct Held {
    PageList list;
    std::vector<int32_t> ids;
  };
  std::vector<Held> held;
  for (int round = 0; round < 20000; ++round) {
    if (held.size() < 4 && random() % 2 == 0) {
      Held next;
      // Few different tokens per page, so that chains meet and part often.
      const auto pages = static_cast<int64_t>(1 + random() % 6);
      for (int64_t p = 0; p < pages; ++p) {
        const std::vector<int32_t> page = ids_from(static_cast<int32_t>(random() % 3) * 100, 64);
        next.ids.insert(next.ids.end(), page.begin(), page.end());
      }
      const int64_t found = cache.find(next.list, 0, next.ids, pages);
      for (int64_t p = 0; p < found; ++p) {
        const std::vector<int32_t> prefix(next.ids.begin(), next.ids.begin() + (p + 1) * 64);
        ASSERT_EQ(content[static_cast<size_t>(next.list.pages[static_cast<size_t>(p)])], prefix);
      }
      if (!cache.grow(next.list, pages)) {
        cache.release(next.list);
        continue;
      }
      for (int64_t p = found; p < pages; ++p) {
        content[static_cast<size_t>(next.list.pages[static_cast<size_t>(p)])].assign(
            next.ids.begin(), next.ids.begin() + (p + 1) * 64);
      }
      held.push_back(std::move(next));
    } else if (!held.empty()) {
      const size_t i = random() % held.size();
      if (random() % 2 == 0) cache.publish(held[i].list, 0, held[i].ids);
      if (random() % 2 == 0) {
        cache.release(held[i].list);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    std::set<int32_t> owned;
    int64_t count = cache.nodes();
    for (const int32_t page : cache.tree_pages()) owned.insert(page);
    for (const Held& each : held) {
      for (size_t p = static_cast<size_t>(each.list.shared); p < each.list.pages.size();
           ++p, ++count) {
        owned.insert(each.list.pages[p]);
      }
    }
    ASSERT_EQ(static_cast<int64_t>(owned.size()), count) << "a page has two owners";
    ASSERT_EQ(pool.free_pages() + count, pool.capacity());
  }
}

}  // namespace
}  // namespace longshore::engine
