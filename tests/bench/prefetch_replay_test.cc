// The replay that says what bringing experts ahead is worth: counted and timed by hand.
#include "bench/prefetch_replay.h"

#include <gtest/gtest.h>

namespace longshore::bench {
namespace {

// A copy takes 1 s, the CPU never helps, the device needs a quarter of a second a layer.
ReplayCosts slow_cpu() {
  return {.start = {.wire_bytes_per_second = 1,
                    .wire_overhead = 0,
                    .cpu_seconds_one_token = 100,
                    .cpu_seconds_per_token = 0,
                    .cpu_overhead = 0},
          .expert_bytes = 1,
          .pieces = 1,
          .layer_seconds = 0.25};
}

PrefetchReplay::Hint guess(std::vector<int32_t> experts) {
  return [experts = std::move(experts)](int32_t) { return experts; };
}

const std::vector<int32_t> kOne = {1};
const std::vector<int32_t> kTwo = {2};

TEST(PrefetchReplay, WithoutAHintItIsTheCacheAndTheSplit) {
  PrefetchReplay replay(2, 4, 2, 0, Wire::kQueued, slow_cpu());
  for (int step = 0; step < 3; ++step) {
    replay.begin_step();
    replay.layer(0, kOne, guess({}));
    replay.layer(1, kTwo, guess({}));
  }
  EXPECT_EQ(replay.counts().wanted, 6);
  EXPECT_EQ(replay.counts().present, 4);
  EXPECT_EQ(replay.counts().ahead, 0);
  EXPECT_DOUBLE_EQ(replay.counts().seconds, 2 + 6 * 0.25);
  EXPECT_DOUBLE_EQ(replay.counts().wire_seconds, 2);
}

TEST(PrefetchReplay, ARightGuessSavesWhatTheLayerBeforeCovers) {
  PrefetchReplay replay(2, 4, 0, 1, Wire::kQueued, slow_cpu());
  replay.layer(0, {}, guess({}));
  replay.layer(1, kTwo, guess({2}));
  EXPECT_EQ(replay.counts().used, 1);
  EXPECT_DOUBLE_EQ(replay.counts().precision(), 1);
  EXPECT_DOUBLE_EQ(replay.counts().recall(), 1);
  // The copy began with the first layer: 1 s, of which it covers a quarter.
  EXPECT_DOUBLE_EQ(replay.counts().seconds, 1 + 0.25);
}

TEST(PrefetchReplay, AWrongGuessDelaysWhatIsMissingWhereCopiesAreQueued) {
  for (const Wire wire : {Wire::kQueued, Wire::kIdleOnly}) {
    PrefetchReplay replay(2, 4, 0, 1, wire, slow_cpu());
    for (int i = 0; i < 4; ++i) replay.layer(0, {}, guess({}));  // a second of an idle wire
    replay.layer(1, kTwo, guess({1}));
    EXPECT_EQ(replay.counts().ahead, 1);
    EXPECT_EQ(replay.counts().used, 0);
    const double waited = wire == Wire::kQueued ? 0.75 : 0;
    EXPECT_DOUBLE_EQ(replay.counts().seconds, 5 * 0.25 + 1 + waited);
  }
}

TEST(PrefetchReplay, AnIdleWireBringsNoMoreThanItHasTimeFor) {
  PrefetchReplay replay(2, 4, 0, 4, Wire::kIdleOnly, slow_cpu());
  for (int i = 0; i < 9; ++i) replay.layer(0, {}, guess({}));
  replay.layer(1, {}, guess({0, 1, 2, 3}));
  EXPECT_EQ(replay.counts().ahead, 2);
}

TEST(PrefetchReplay, NothingIsQueuedThatWouldBeginAfterItsLayer) {
  PrefetchReplay replay(2, 4, 0, 4, Wire::kQueued, slow_cpu());
  replay.layer(0, kOne, guess({}));
  replay.layer(1, {}, guess({0, 1, 2, 3}));
  // 1.25 s, of which the wire had 1 for what layer 0 missed: one begins and delays the next.
  EXPECT_EQ(replay.counts().ahead, 1);
  replay.layer(0, {}, guess({0, 1, 2, 3}));
  EXPECT_EQ(replay.counts().ahead, 1);
}

TEST(PrefetchReplay, AWireWithoutLimitBringsAllThatIsGuessed) {
  PrefetchReplay replay(2, 4, 0, 4, Wire::kUnlimited, slow_cpu());
  replay.layer(1, kTwo, guess({0, 1, 2, 3}));
  EXPECT_EQ(replay.counts().ahead, 4);
  EXPECT_DOUBLE_EQ(replay.counts().precision(), 0.25);
  EXPECT_DOUBLE_EQ(replay.counts().seconds, 0.25);
}

// A guess's own worth is what it was used itself.
TEST(PrefetchReplay, AGuessTakesNoSlotFromWhatIsWorthMore) {
  PrefetchReplay replay(1, 4, 1, 1, Wire::kQueued, slow_cpu());
  replay.layer(0, kOne, guess({}));
  replay.layer(0, kOne, guess({3}));
  replay.layer(0, kOne, guess({3}));
  EXPECT_EQ(replay.counts().present, 2);
  EXPECT_FALSE(replay.missing(0, 1));
}

TEST(PrefetchReplay, WhatWasBroughtAndUsedStays) {
  PrefetchReplay replay(1, 4, 1, 1, Wire::kQueued, slow_cpu());
  replay.layer(0, kOne, guess({}));
  replay.layer(0, kTwo, guess({2}));
  EXPECT_EQ(replay.counts().used, 1);
  EXPECT_FALSE(replay.missing(0, 2));
  EXPECT_TRUE(replay.missing(0, 1));
}

TEST(PrefetchReplay, OfAGuessNamesThatAreThereAreSkipped) {
  PrefetchReplay replay(1, 4, 2, 1, Wire::kQueued, slow_cpu());
  replay.layer(0, kOne, guess({}));
  replay.layer(0, kTwo, guess({1, 2}));
  EXPECT_EQ(replay.counts().used, 1);
  EXPECT_EQ(replay.counts().ahead, 1);
}

}  // namespace
}  // namespace longshore::bench
