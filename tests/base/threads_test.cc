#include "base/threads.h"

#include <gtest/gtest.h>

#include <numeric>

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

}  // namespace
}  // namespace longshore
