// Plans without a model: the sequences' progress is moved by hand.
#include "engine/scheduler.h"

#include <memory>

#include <gtest/gtest.h>

namespace longshore::engine {
namespace {

class SchedulerTest : public testing::Test {
 protected:
  void start(int64_t pages, const SchedulerLimits& limits, bool prefix_cache = true) {
    model::KvLayout layout;
    layout.kv_lora = 8;
    layout.has_index = {false};
    auto pool = KvPool::create(layout, pages);
    LS_CHECK(pool.has_value());
    pool_ = std::make_unique<KvPool>(std::move(*pool));
    prefixes_ = std::make_unique<PrefixCache>(*pool_, prefix_cache);
    scheduler_ = std::make_unique<Scheduler>(*prefixes_, limits);
  }

  // salt != 0: shares no prefix with others of another salt.
  Sequence& add(int64_t tokens, int32_t salt) {
    GenerationRequest request;
    for (int64_t i = 0; i < tokens; ++i)
      request.prompt.push_back(static_cast<int32_t>(i + salt * 1000));
    sequences_.push_back(std::make_unique<Sequence>(next_id_++, std::move(request), Listener{}));
    scheduler_->add(*sequences_.back());
    return *sequences_.back();
  }

  // What the engine does with a plan.
  StepPlan step() {
    StepPlan plan = scheduler_->plan();
    for (const StepPlan::Item& item : plan.items) {
      Sequence& sequence = *item.sequence;
      EXPECT_LE(pages_for(sequence.computed + item.tokens),
                static_cast<int64_t>(sequence.pages.pages.size()));
      sequence.computed += item.tokens;
      prefixes_->publish(sequence.pages, 0, sequence.written());
      if (!item.samples) continue;
      sequence.ids.push_back(7);
      ++sequence.stats.output_tokens;
      sequence.decoding = true;
    }
    return plan;
  }

  static int64_t planned(const StepPlan& plan, const Sequence& sequence) {
    for (const StepPlan::Item& item : plan.items) {
      if (item.sequence == &sequence) return item.tokens;
    }
    return 0;
  }

  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<PrefixCache> prefixes_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  RequestId next_id_ = 1;
};

TEST_F(SchedulerTest, NothingToDoIsAnEmptyPlan) {
  start(4, {});
  EXPECT_TRUE(step().items.empty());
}

TEST_F(SchedulerTest, ThePromptTokensOfAStepStayWithinTheBudget) {
  start(100, {.max_running = 8, .prefill_budget = 100});
  Sequence& a = add(250, 1);
  Sequence& b = add(30, 2);
  Sequence& c = add(250, 3);
  StepPlan plan = step();
  EXPECT_EQ(plan.prefill_tokens, 100);
  EXPECT_EQ(planned(plan, b), 30) << "the shortest is finished at once";
  EXPECT_EQ(planned(plan, a), 70) << "half for the oldest, and the rest of what is left";
  EXPECT_EQ(planned(plan, c), 0);
  plan = step();
  EXPECT_EQ(plan.decode_tokens, 1);
  EXPECT_EQ(plan.prefill_tokens, 100) << "decoding does not count against the budget";
}

TEST_F(SchedulerTest, NoMoreThanMaxRunningRun) {
  start(100, {.max_running = 2, .prefill_budget = 100});
  for (int32_t i = 1; i <= 4; ++i) add(10, i);
  EXPECT_EQ(step().items.size(), 2U);
  EXPECT_EQ(scheduler_->running(), 2);
  EXPECT_EQ(scheduler_->waiting(), 2);
  scheduler_->remove(*sequences_[0]);
  EXPECT_EQ(planned(step(), *sequences_[2]), 10);
}

TEST_F(SchedulerTest, AdmissionNeedsPagesForTheWholePromptAndKeepsTheOrder) {
  start(6, {.max_running = 8, .prefill_budget = 1000});
  add(200, 1);                    // four pages
  Sequence& large = add(200, 2);  // does not fit beside it
  Sequence& small = add(10, 3);   // would, but may not pass
  step();
  EXPECT_EQ(scheduler_->running(), 1);
  EXPECT_EQ(planned(step(), small), 0);
  scheduler_->remove(*sequences_[0]);
  const StepPlan plan = step();
  EXPECT_EQ(planned(plan, large), 200);
  EXPECT_EQ(planned(plan, small), 10);
}

TEST_F(SchedulerTest, TheYoungestGivesItsPagesToTheOldest) {
  start(4, {.max_running = 8, .prefill_budget = 1000}, /*prefix_cache=*/false);
  Sequence& oldest = add(64, 1);
  Sequence& youngest = add(64, 2);
  step();
  EXPECT_EQ(scheduler_->running(), 2);
  while (oldest.pages.pages.size() < 3) step();
  EXPECT_EQ(youngest.stats.preemptions, 1);
  EXPECT_EQ(youngest.computed, 0);
  EXPECT_TRUE(youngest.pages.pages.empty());
  EXPECT_EQ(oldest.stats.preemptions, 0);
  scheduler_->remove(oldest);
  const StepPlan plan = step();
  EXPECT_EQ(planned(plan, youngest), static_cast<int64_t>(youngest.ids.size()) - 1)
      << "prompt and output are computed again";
}

TEST_F(SchedulerTest, APreemptedSequenceWhosePagesAreStillCachedGoesOnAtOnce) {
  start(4, {.max_running = 8, .prefill_budget = 1000});
  Sequence& oldest = add(60, 1);
  Sequence& other = add(64, 2);
  step();
  while (other.stats.preemptions == 0) step();
  scheduler_->remove(oldest);
  const StepPlan plan = step();
  EXPECT_GT(planned(plan, other), 0);
  EXPECT_LT(planned(plan, other), 64) << "its first page was found";
}

TEST_F(SchedulerTest, WhoSharesThePrefixBeingComputedWaitsForItAndLetsOthersPass) {
  start(100, {.max_running = 8, .prefill_budget = 64});
  Sequence& first = add(200, 1);
  Sequence& same = add(200, 1);
  Sequence& other = add(10, 2);
  StepPlan plan = step();
  EXPECT_EQ(planned(plan, first), 54);
  EXPECT_EQ(planned(plan, other), 10);
  EXPECT_EQ(planned(plan, same), 0);
  int64_t computed = 0;
  for (int i = 0; i < 8; ++i) computed += planned(step(), same);
  EXPECT_EQ(computed - same.stats.output_tokens + 1, 200 - 192)
      << "three pages came from the other sequence";
}

TEST_F(SchedulerTest, AnyNumberOfFollowersLetsOthersPass) {
  start(100, {.max_running = 8, .prefill_budget = 64});
  add(1000, 1);
  for (int i = 0; i < 100; ++i) add(1000, 1);
  Sequence& other = add(10, 2);
  EXPECT_EQ(planned(step(), other), 10);
}

}  // namespace
}  // namespace longshore::engine
