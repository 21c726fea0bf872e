#include "offload/split.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

namespace longshore::offload {
namespace {

// One expert of GLM-5.1 in FP8 and the rates measured on a 16-core machine with PCIe 5: both at
// once.
constexpr int64_t kBytes = 37748736;
Costs::Start glm() {
  Costs::Start start;
  start.wire_bytes_per_second = 51e9;
  start.cpu_seconds_one_token = static_cast<double>(kBytes) / 145e9;
  start.cpu_seconds_per_token = start.cpu_seconds_one_token * 0.05;
  return start;
}

// pieces 1: none is shared.
SplitLimits limits(int64_t max_fetch, int64_t pieces = 1) {
  return {.bytes = kBytes, .max_fetch = max_fetch, .pieces = pieces};
}

std::vector<Miss> equal_misses(int32_t count) {
  std::vector<Miss> misses;
  for (int32_t i = 0; i < count; ++i) misses.push_back({i, 1, static_cast<double>(i)});
  return misses;
}

TEST(Split, EndsBothSidesTogether) {
  // 8 misses at 145 : 51: two fetched take 1.48 ms, six computed 1.56 ms.
  const Split split = split_misses(equal_misses(8), Costs(glm()), limits(8));
  EXPECT_EQ(split.fetch.size(), 2U);
  EXPECT_EQ(split.cpu.size(), 6U);
  EXPECT_NEAR(split.seconds, 6 * static_cast<double>(kBytes) / 145e9, 1e-9);
}

TEST(Split, FetchesWhatIsLikeliestToComeBack) {
  const Split split = split_misses(equal_misses(8), Costs(glm()), limits(8));
  EXPECT_EQ(split.fetch, (std::vector<int32_t>{7, 6}));
}

TEST(Split, FetchesThePopularExpertFirst) {
  std::vector<Miss> misses = equal_misses(4);
  misses[0].tokens = 30;
  const Split split = split_misses(misses, Costs(glm()), limits(1));
  EXPECT_EQ(split.fetch, (std::vector<int32_t>{0}));
}

TEST(Split, TakesNoMoreSlotsThanThereAre) {
  EXPECT_TRUE(split_misses(equal_misses(8), Costs(glm()), limits(0)).fetch.empty());
  EXPECT_EQ(split_misses(equal_misses(8), Costs(glm()), limits(1)).fetch.size(), 1U);
}

TEST(Split, OfNothingIsNothing) {
  const Split split = split_misses({}, Costs(glm()), limits(8));
  EXPECT_TRUE(split.fetch.empty() && split.cpu.empty());
  EXPECT_EQ(split.seconds, 0);
}

TEST(Split, FetchesAllWhereTheCpuIsSlow) {
  Costs::Start slow = glm();
  slow.cpu_seconds_one_token = 1;
  EXPECT_EQ(split_misses(equal_misses(8), Costs(slow), limits(8)).fetch.size(), 8U);
}

TEST(Split, SharesASingleMissBetweenBothSides) {
  const Split split = split_misses(equal_misses(1), Costs(glm()), limits(8, 32));
  EXPECT_EQ(split.shared, 0);
  EXPECT_TRUE(split.fetch.empty() && split.cpu.empty());
  EXPECT_EQ(split.pieces_on_cpu, 24) << "145 of 196";
  EXPECT_NEAR(split.seconds, static_cast<double>(kBytes) / 196e9, 0.05 * split.seconds);
}

TEST(Split, SharesOnlyWhatIsWorthItsPlace) {
  Costs::Start even = glm();
  even.wire_bytes_per_second = 145e9;
  EXPECT_EQ(split_misses(equal_misses(2), Costs(even), limits(8, 32)).shared, -1)
      << "one and one end together";
  EXPECT_GE(split_misses(equal_misses(3), Costs(even), limits(8, 32)).shared, 0);
  EXPECT_EQ(split_misses(equal_misses(3), Costs(even), limits(0, 32)).shared, -1) << "no place";
  EXPECT_EQ(split_misses(equal_misses(3), Costs(even), limits(8, 1)).shared, -1) << "not cut";
  Costs::Start slow = glm();
  slow.cpu_seconds_one_token = 1;
  EXPECT_EQ(split_misses(equal_misses(1), Costs(slow), limits(8, 32)).fetch.size(), 1U);
}

// Every number of whole fetches and of pieces of every expert, for random costs.
TEST(Split, WithASharedExpertIsTheBestOfAllOrNearIt) {
  std::mt19937 random(12);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    Costs::Start start = glm();
    start.wire_bytes_per_second = uniform(20e9, 100e9);
    start.cpu_seconds_one_token = static_cast<double>(kBytes) / uniform(20e9, 150e9);
    start.wire_overhead = uniform(0, 1e-4);
    start.cpu_overhead = uniform(0, 1e-4);
    const Costs costs(start);
    const auto count = static_cast<int32_t>(1 + random() % 9);
    constexpr int64_t kPieces = 32;
    double best = 1e9;
    for (int64_t fetched = 0; fetched <= count * kPieces; ++fetched) {
      const double on_cpu = static_cast<double>(count * kPieces - fetched) / kPieces;
      const double cpu = on_cpu == 0 ? 0 : costs.cpu_overhead() + on_cpu * costs.cpu_seconds(1);
      best = std::min(best, std::max(costs.wire_seconds(fetched * kBytes / kPieces), cpu));
    }
    const Split split = split_misses(equal_misses(count), costs, limits(16, kPieces));
    ASSERT_GE(split.seconds, best * (1 - 1e-9));
    ASSERT_LE(split.seconds, best * 1.112) << "round " << round << ", " << count << " misses";
    ASSERT_EQ(split.fetch.size() + split.cpu.size() + (split.shared >= 0 ? 1 : 0),
              static_cast<size_t>(count));
    ASSERT_EQ(split.shared >= 0, split.pieces_on_cpu > 0);
    ASSERT_LT(split.pieces_on_cpu, kPieces);
  }
}

// Every subset, for random costs and token counts.
TEST(Split, IsTheBestOfAllSubsets) {
  std::mt19937 random(11);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    Costs::Start start = glm();
    start.wire_bytes_per_second = uniform(5e9, 200e9);
    start.wire_overhead = uniform(0, 3e-4);
    start.cpu_overhead = uniform(0, 3e-4);
    start.cpu_seconds_per_token = uniform(0, 1e-4);
    const Costs costs(start);
    std::vector<Miss> misses;
    for (int32_t i = 0; i < static_cast<int32_t>(1 + random() % 9); ++i)
      misses.push_back({i, 1 + static_cast<int64_t>(random() % 40), 0});
    const auto max_fetch = static_cast<int64_t>(random() % 10);
    double best = 1e9;
    for (uint32_t set = 0; set < 1U << misses.size(); ++set) {
      int64_t fetched = 0;
      double cpu = 0;
      for (size_t i = 0; i < misses.size(); ++i) {
        const bool fetch = (set >> i & 1U) != 0;
        fetched += fetch ? 1 : 0;
        cpu += fetch ? 0 : costs.cpu_seconds(misses[i].tokens);
      }
      if (fetched > max_fetch) continue;
      if (fetched < static_cast<int64_t>(misses.size())) cpu += costs.cpu_overhead();
      best = std::min(best, std::max(costs.wire_seconds(fetched * kBytes), cpu));
    }
    const Split split = split_misses(misses, costs, limits(max_fetch));
    ASSERT_NEAR(split.seconds, best, best * 1e-9) << "round " << round;
    std::vector<int32_t> all = split.fetch;
    all.insert(all.end(), split.cpu.begin(), split.cpu.end());
    std::sort(all.begin(), all.end());
    std::vector<int32_t> expected(misses.size());
    std::iota(expected.begin(), expected.end(), 0);
    ASSERT_EQ(all, expected) << "each expert once";
  }
}

TEST(Costs, FollowTheMachine) {
  Costs costs(glm());
  for (int i = 0; i < 600; ++i) costs.saw_wire(4 * kBytes, 4 * static_cast<double>(kBytes) / 20e9);
  EXPECT_NEAR(costs.wire_bytes_per_second(), 20e9, 0.2e9);
  // The CPU got twice as slow at one token and not at 8.
  const Costs before = costs;
  const std::vector<Costs::Load> ones(5, {.tokens = 1});
  const std::vector<Costs::Load> eights(5, {.tokens = 8});
  for (int i = 0; i < 600; ++i) {
    costs.saw_cpu(ones, 5 * 2 * before.cpu_seconds(1));
    costs.saw_cpu(eights, 5 * before.cpu_seconds(8));
  }
  EXPECT_NEAR(costs.cpu_seconds(1) / before.cpu_seconds(1), 2, 0.02);
  EXPECT_NEAR(costs.cpu_seconds(8) / before.cpu_seconds(8), 1, 0.02);
}

TEST(Costs, TakeAPartForItsShare) {
  Costs costs(glm());
  const double one = costs.cpu_seconds(1);
  const std::vector<Costs::Load> loads = {{.tokens = 1}, {.tokens = 1, .share = 0.25}};
  for (int i = 0; i < 100; ++i) costs.saw_cpu(loads, 1.25 * one);
  EXPECT_NEAR(costs.cpu_seconds(1) / one, 1, 1e-9);
}

TEST(Costs, AreNotThrownByOneBadObservation) {
  Costs costs(glm());
  costs.saw_wire(kBytes, 10);
  EXPECT_GT(costs.wire_bytes_per_second(), 0.97 * 51e9);
  costs.saw_wire(kBytes, 0);
  costs.saw_wire(0, 1);
  EXPECT_GT(costs.wire_bytes_per_second(), 0.97 * 51e9);
}

}  // namespace
}  // namespace longshore::offload
