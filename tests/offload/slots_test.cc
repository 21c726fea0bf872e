#include "offload/slots.h"

#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace longshore::offload {
namespace {

int32_t load(Slots& slots, int32_t expert) {
  const int32_t slot = slots.begin_load(expert);
  slots.end_load(slot);
  slots.unpin(slot);
  return slot;
}

TEST(Slots, EvictTheExpertThatIsWorthLeast) {
  Slots slots(2, 10, 16);
  for (const int32_t expert : {3, 3, 5}) slots.use(expert, 1);
  const int32_t first = load(slots, 3);
  const int32_t second = load(slots, 5);
  slots.use(7, 1);
  EXPECT_EQ(load(slots, 7), second);
  EXPECT_EQ(slots.find(5), -1);
  EXPECT_EQ(slots.find(3), first);
  slots.check_conservation(true);
}

TEST(Slots, APinnedExpertStays) {
  Slots slots(1, 4, 16);
  const int32_t slot = slots.begin_load(0);
  EXPECT_EQ(slots.begin_load(1), -1) << "loading";
  slots.end_load(slot);
  EXPECT_EQ(slots.begin_load(1), -1) << "pinned";
  slots.pin(slot);
  slots.unpin(slot);
  EXPECT_EQ(slots.begin_load(1), -1) << "pinned twice, unpinned once";
  slots.unpin(slot);
  EXPECT_EQ(slots.begin_load(1), slot);
}

TEST(Slots, AGuessTakesNoSlotFromWhatIsWorthMore) {
  Slots slots(1, 4, 16);
  slots.use(0, 2);
  (void)load(slots, 0);
  slots.use(1, 1);
  EXPECT_EQ(slots.begin_prefetch(1), -1);
  slots.use(1, 4);
  EXPECT_EQ(slots.begin_prefetch(1), 0);
}

TEST(Slots, AFailedLoadLeavesAFreeSlot) {
  Slots slots(1, 4, 16);
  const int32_t slot = slots.begin_load(2);
  slots.fail_load(slot);
  EXPECT_EQ(slots.find(2), -1);
  EXPECT_EQ(slots.counts().free, 1);
  slots.check_conservation(true);
}

TEST(Slots, ASmallerLimitLetsTheLeastWorthGoAndALargerOneTakesThemBack) {
  Slots slots(4, 10, 16);
  for (const int32_t expert : {1, 2, 3, 3, 3, 2, 2}) slots.use(expert, 1);
  for (const int32_t expert : {1, 2, 3}) (void)load(slots, expert);
  slots.set_limit(2);
  slots.check_conservation(true);
  EXPECT_EQ(slots.find(1), -1) << "worth least";
  EXPECT_GE(slots.find(2), 0);
  EXPECT_GE(slots.find(3), 0);
  (void)load(slots, 4);
  EXPECT_EQ(slots.counts().resident, 2);
  slots.set_limit(0);
  slots.check_conservation(true);
  EXPECT_EQ(slots.begin_load(5), -1);
  slots.set_limit(4);
  for (const int32_t expert : {5, 6, 7, 8}) (void)load(slots, expert);
  EXPECT_EQ(slots.counts().resident, 4);
  slots.check_conservation(true);
}

TEST(Slots, NoneAreEnoughForNothing) {
  Slots slots(0, 4, 16);
  EXPECT_EQ(slots.begin_load(1), -1);
  slots.check_conservation(true);
}

TEST(Slots, AreConservedUnderRandomUse) {
  constexpr int32_t kExperts = 60;
  std::mt19937 random(3);
  Slots slots(16, kExperts, 8);
  std::vector<int32_t> pins;  // slots, once for every pin
  for (int step = 0; step < 20000; ++step) {
    const auto expert = static_cast<int32_t>(random() % kExperts);
    slots.tick();
    slots.use(expert, 1 + random() % 4);
    const int32_t slot = slots.find(expert);
    if (slot < 0) {
      if (const int32_t loading = slots.begin_load(expert); loading >= 0) pins.push_back(loading);
    } else if (slots.state(slot) == Slots::State::kLoading) {
      if (random() % 8 == 0) {
        slots.fail_load(slot);
        std::erase(pins, slot);
      } else {
        slots.end_load(slot);
      }
    } else {
      slots.pin(slot);
      pins.push_back(slot);
    }
    while (!pins.empty() && random() % 2 == 0) {
      std::swap(pins[random() % pins.size()], pins.back());
      slots.unpin(pins.back());
      pins.pop_back();
    }
    slots.check_conservation(false);
  }
  for (const int32_t slot : pins) slots.unpin(slot);
  for (int32_t slot = 0; slot < 16; ++slot) {
    if (slots.state(slot) == Slots::State::kLoading) slots.end_load(slot);
  }
  slots.check_conservation(true);
}

TEST(SlotsDeathTest, ASecondLoadOfAnExpertEndsTheProgram) {
  Slots slots(2, 4, 16);
  (void)slots.begin_load(1);
  EXPECT_DEATH((void)slots.begin_load(1), "expert 1 is in slot 0");
}

}  // namespace
}  // namespace longshore::offload
