#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace longshore {
namespace {

TEST(ThreadPool, ParallelForVisitsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::vector<int> visits(1000, 0);
    for (int round = 1; round <= 50; ++round) {
      pool.parallel_for(1000, 7, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      ASSERT_EQ(std::accumulate(visits.begin(), visits.end(), 0), 1000 * round);
    }
    for (int visit : visits) ASSERT_EQ(visit, 50);
  }
}

TEST(ThreadPool, RunCallsEveryWorkerOnceEvenAfterParking) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> calls(3, 0);
    pool.run([&](int worker) { ++calls[static_cast<size_t>(worker)]; });
    EXPECT_EQ(calls, (std::vector<int>{1, 1, 1}));
    if (round % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

// One worker is held inside a piece until the rest of the loop is done, but for the few pieces that
// it took with it.
TEST(ThreadPool, OthersDoTheRestWhileOneIsStuck) {
  for (int threads : {2, 5}) {
    ThreadPool pool(threads);
    std::atomic<int> done{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    pool.parallel_for(100, 1, [&](int64_t begin, int64_t, int) {
      while (begin == 0 && done.load() < 95 && std::chrono::steady_clock::now() < deadline)
        std::this_thread::yield();
      done.fetch_add(1);
    });
    EXPECT_EQ(done.load(), 100);
    EXPECT_LT(std::chrono::steady_clock::now(), deadline);
  }
}

TEST(ThreadPool, WorkersTakePiecesInAscendingOrder) {
  ThreadPool pool(3);
  std::vector<std::vector<int64_t>> taken(3);
  pool.parallel_for(3001, 2, [&](int64_t begin, int64_t end, int worker) {
    EXPECT_EQ(end, std::min<int64_t>(begin + 2, 3001));
    taken[static_cast<size_t>(worker)].push_back(begin);
  });
  for (const std::vector<int64_t>& pieces : taken)
    EXPECT_TRUE(std::is_sorted(pieces.begin(), pieces.end()));
}

TEST(ThreadPool, LoopsOfFewPiecesMixWithLargeOnes) {
  ThreadPool pool(6);
  int64_t expected = 0;
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 1000; ++round) {
    const int64_t count = round % 7 == 0 ? 300 : round % 4;
    expected += count;
    pool.parallel_for(count, 1,
                      [&](int64_t begin, int64_t end, int) { sum.fetch_add(end - begin); });
    ASSERT_EQ(sum.load(), expected);
  }
}

TEST(ThreadPool, PiecesOfNodesCrossNoBoundAndComeOnce) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads, Topology{{{0}, {1}, {0}}});
    ASSERT_EQ(pool.nodes(), std::min(threads, 3));
    std::vector<int64_t> bounds{0, 500, 500, 1003};
    bounds.resize(static_cast<size_t>(pool.nodes()) + 1);
    std::vector<int> visits(static_cast<size_t>(bounds.back()), 0);
    for (int round = 1; round <= 20; ++round) {
      pool.parallel_for_nodes(bounds, 7, [&](int64_t begin, int64_t end, int) {
        for (size_t n = 0; pool.nodes() > 1 && n < bounds.size(); ++n)
          EXPECT_FALSE(begin < bounds[n] && bounds[n] < end);
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
    }
    for (int visit : visits) ASSERT_EQ(visit, 20);
  }
}

// All workers are held inside their first piece, so none can have run out of its own node's.
TEST(ThreadPool, WorkersBeginWithTheirOwnNodesPieces) {
  constexpr int kThreads = 6;
  ThreadPool pool(kThreads, Topology{{{0}, {1}}});
  const std::vector<int64_t> bounds{0, 100, 200};
  std::atomic<int> entered{0};
  std::vector<int64_t> first(kThreads, -1);
  std::vector<int> home(kThreads, -1);
  pool.parallel_for_nodes(bounds, 1, [&](int64_t begin, int64_t, int worker) {
    const auto w = static_cast<size_t>(worker);
    if (first[w] >= 0) return;
    first[w] = begin;
    home[w] = pool.node_of(worker);
    entered.fetch_add(1);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (entered.load() < kThreads && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
  });
  for (size_t w = 1; w < kThreads; ++w) {
    EXPECT_EQ(home[w], static_cast<int>(w % 2));
    EXPECT_EQ(first[w] >= 100 ? 1 : 0, home[w]) << "worker " << w;
  }
}

TEST(ThreadPool, TheCallerDoesWhatComesBeforeWhileOthersWork) {
  for (const Topology& topology : {Topology{{{0}}}, Topology{{{0}, {1}}}}) {
    ThreadPool pool(4, topology);
    std::vector<int64_t> bounds{0, 100};
    if (pool.nodes() == 2) bounds = {0, 50, 100};
    std::atomic<int> done{0};
    int calls = 0;
    const std::function<void()> before = [&] {
      ++calls;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (done.load() == 0 && std::chrono::steady_clock::now() < deadline)
        std::this_thread::yield();
      EXPECT_GT(done.load(), 0);
    };
    pool.parallel_for_nodes(
        bounds, 1, [&](int64_t, int64_t, int) { done.fetch_add(1); }, &before);
    EXPECT_EQ(done.load(), 100);
    EXPECT_EQ(calls, 1);
    // Alone with its loop the caller does it first.
    pool.parallel_for_nodes(
        bounds, 100, [&](int64_t, int64_t, int) { EXPECT_EQ(calls, 2); }, &before);
    EXPECT_EQ(calls, 2);
  }
}

TEST(ThreadPool, AWorkerHelpsOtherNodesWhenItsOwnIsDone) {
  ThreadPool pool(4, Topology{{{0}, {1}}});
  const std::vector<int64_t> bounds{0, 0, 100};
  std::atomic<int> done{0};
  pool.parallel_for_nodes(bounds, 1, [&](int64_t, int64_t, int) { done.fetch_add(1); });
  EXPECT_EQ(done.load(), 100);
}

}  // namespace
}  // namespace longshore
