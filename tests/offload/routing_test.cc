#include "offload/routing.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace longshore::offload {
namespace {

using testing::HasSubstr;

// Share of the draws that the most popular tenth of a layer's experts get.
double share_of_the_tenth(const Trace& trace, int32_t layer) {
  std::vector<int64_t> uses(static_cast<size_t>(trace.experts));
  int64_t all = 0;
  for (const LayerRoutes& record : trace.records) {
    if (record.layer != layer) continue;
    for (const Routed& routed : record.routed) {
      ++uses[static_cast<size_t>(routed.expert)];
      ++all;
    }
  }
  std::sort(uses.rbegin(), uses.rend());
  int64_t tenth = 0;
  for (size_t i = 0; i < uses.size() / 10; ++i) tenth += uses[i];
  return static_cast<double>(tenth) / static_cast<double>(all);
}

Routing parsed(const char* spec) {
  auto routing = Routing::parse(spec, 3, 100, 1);
  LS_CHECK_MSG(routing.has_value(), "{}", routing.error().message);
  return std::move(*routing);
}

TEST(Routing, NeighboursShareTheAskedPartOfTheirExperts) {
  for (const double asked : {0.0, 0.3, 0.6, 1.0}) {
    auto routing = *Routing::parse(fmt::format("overlap:{}", asked), 1, 256, 3);
    std::vector<int32_t> ids(8 * 2000);
    // In steps of four: overlap goes on from step to step.
    for (int64_t t = 0; t < 2000; t += 4) routing.draw(0, 4, 8, ids.data() + 8 * t);
    int64_t shared = 0;
    for (size_t t = 1; t < 2000; ++t) {
      const std::set<int32_t> before(ids.begin() + static_cast<std::ptrdiff_t>(8 * (t - 1)),
                                     ids.begin() + static_cast<std::ptrdiff_t>(8 * t));
      ASSERT_EQ(before.size(), 8U);
      for (size_t i = 8 * t; i < 8 * t + 8; ++i) shared += before.contains(ids[i]) ? 1 : 0;
    }
    const double by_chance = (1 - asked) * 8 / 256;
    EXPECT_NEAR(static_cast<double>(shared) / (8 * 1999), asked + by_chance, 0.02);
  }
}

TEST(Routing, DrawsDistinctExpertsWithTheAskedPopularity) {
  for (const auto& [spec, low, high] :
       {std::tuple{"uniform", 0.08, 0.16}, std::tuple{"zipf:1.1", 0.5, 0.75}}) {
    const Trace trace = parsed(spec).record(1000, 8);
    for (const LayerRoutes& record : trace.records) {
      std::set<int32_t> distinct;
      for (const Routed& routed : record.routed) distinct.insert(routed.expert);
      ASSERT_EQ(distinct.size(), 8U);
      ASSERT_TRUE(*distinct.begin() >= 0 && *distinct.rbegin() < 100);
    }
    for (int32_t layer = 0; layer < 3; ++layer) {
      EXPECT_GT(share_of_the_tenth(trace, layer), low) << spec;
      EXPECT_LT(share_of_the_tenth(trace, layer), high) << spec;
    }
  }
}

TEST(Routing, ASeedGivesTheSameDrawsAndLayersDiffer) {
  const Trace a = parsed("zipf:2").record(50, 2);
  const Trace b = parsed("zipf:2").record(50, 2);
  std::vector<int32_t> firsts[3];
  for (size_t i = 0; i < a.records.size(); ++i) {
    ASSERT_EQ(a.records[i].routed[0].expert, b.records[i].routed[0].expert);
    firsts[a.records[i].layer].push_back(a.records[i].routed[0].expert);
  }
  EXPECT_NE(firsts[0], firsts[1]);
  EXPECT_NE(firsts[1], firsts[2]);
}

TEST(Routing, RefusesOtherSpecsByName) {
  for (const char* spec : {"", "zip", "zipf:", "zipf:-1", "zipf:x", "zipf:1.1x", "zipf:nan",
                           "zipf:99", "trace:/nowhere/trace"}) {
    const auto routing = Routing::parse(spec, 3, 100, 1);
    ASSERT_FALSE(routing) << spec;
    EXPECT_EQ(routing.error().kind, ErrorKind::kUsage);
  }
}

}  // namespace
}  // namespace longshore::offload
