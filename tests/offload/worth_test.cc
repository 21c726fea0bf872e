#include "offload/worth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace longshore::offload {
namespace {

// The definition, computed anew each time: every use counts and fades.
class Naive {
 public:
  Naive(int64_t items, double half_life)
      : half_life_(half_life), uses_(static_cast<size_t>(items)) {}
  void tick() { now_ += 1; }
  void use(int32_t item, double uses) { uses_[static_cast<size_t>(item)].push_back({now_, uses}); }
  [[nodiscard]] double of(int32_t item) const {
    double sum = 0;
    for (const auto& [time, uses] : uses_[static_cast<size_t>(item)])
      sum += uses * std::exp2(-(now_ - time) / half_life_);
    return sum;
  }

 private:
  double half_life_;
  double now_ = 0;
  std::vector<std::vector<std::pair<double, double>>> uses_;
};

TEST(Worth, LeastIsTheOneThatTheDefinitionNames) {
  constexpr int32_t kItems = 40;
  for (const double half_life : {0.5, 3.0, 40.0}) {
    std::mt19937 random(7);
    Worth worth(kItems, half_life);
    Naive naive(kItems, half_life);
    std::set<int32_t> candidates;
    for (int step = 0; step < 4000; ++step) {
      const auto item = static_cast<int32_t>(random() % kItems);
      switch (random() % 4) {
        case 0:
          worth.tick();
          naive.tick();
          break;
        case 1: {
          const double uses = 1 + static_cast<double>(random() % 5);
          worth.use(item, uses);
          naive.use(item, uses);
          break;
        }
        default:
          if (candidates.erase(item) == 1) {
            worth.remove(item);
          } else {
            worth.add(item);
            candidates.insert(item);
          }
      }
      ASSERT_EQ(worth.empty(), candidates.empty());
      if (candidates.empty()) continue;
      const double least = naive.of(worth.least());
      for (const int32_t other : candidates) {
        ASSERT_LE(least, naive.of(other) * (1 + 1e-9)) << "step " << step;
        ASSERT_TRUE(worth.contains(other));
      }
    }
  }
}

TEST(Worth, AnEndlessHalfLifeCountsUses) {
  Worth worth(3, std::numeric_limits<double>::infinity());
  for (const int32_t item : {0, 1, 2}) worth.add(item);
  worth.use(0);
  worth.use(0);
  worth.tick();
  worth.use(1);
  EXPECT_EQ(worth.least(), 2) << "never used";
  worth.use(2, 3);
  EXPECT_EQ(worth.least(), 1);
}

TEST(Worth, OrderSurvivesAMillionSteps) {
  Worth worth(2, 1.0 / 64);
  worth.add(0);
  worth.add(1);
  for (int i = 0; i < 1000000; ++i) {
    worth.tick();
    worth.use(i % 2);
  }
  EXPECT_EQ(worth.least(), 0) << "the last use was of 1";
  EXPECT_TRUE(std::isfinite(worth.of(0)));
}

}  // namespace
}  // namespace longshore::offload
