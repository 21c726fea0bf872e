// The engine under constraints that know nothing but ids.
#include "engine/constraint.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

// Ids of one remainder, then, after `most` of them, only stop ids; with `dead_at` nothing from
// there.
struct Rule {
  int32_t divisor = 3;
  int32_t remainder = 1;
  int64_t most = 6;
  int64_t dead_at = -1;
};

class Counting : public TokenConstraint {
 public:
  Counting(const Rule& rule, std::span<const int32_t> stops, int64_t vocab)
      : rule_(rule), stops_(stops.begin(), stops.end()), vocab_(vocab) {}
  void fill(IdMask allowed) override {
    std::fill(allowed.begin(), allowed.end(), 0);
    const auto set = [&](int64_t id) {
      allowed[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<uint64_t>(id) % 64);
    };
    if (count_ == rule_.dead_at) return;
    if (count_ >= rule_.most) {
      for (const int32_t id : stops_) set(id);
      return;
    }
    for (int64_t id = rule_.remainder; id < vocab_; id += rule_.divisor) set(id);
  }
  void accept(int32_t /*id*/) override { ++count_; }
  bool draft(int32_t /*id*/) override { return false; }
  void drop_drafts() override {}

 private:
  Rule rule_;
  std::vector<int32_t> stops_;
  int64_t vocab_;
  int64_t count_ = 0;
};

class Source : public ConstraintSource {
 public:
  explicit Source(const Rule& rule) : rule_(rule) {}
  [[nodiscard]] std::unique_ptr<TokenConstraint> start(std::span<const int32_t> stops,
                                                       int64_t vocab) const override {
    return std::make_unique<Counting>(rule_, stops, vocab);
  }

 private:
  Rule rule_;
};

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-fp8"), "reference", 128, /*threads=*/1);
  return model;
}

std::unique_ptr<Engine> engine() {
  return make_engine(reference(), {.context_length = 256,
                                   .max_running = 8,
                                   .prefill_budget = 64,
                                   .pages = 40,
                                   .max_queued = -1,
                                   .prefix_cache = true});
}

GenerationRequest constrained(const Rule& rule, int32_t salt) {
  const auto vocab = static_cast<int32_t>(reference().checkpoint->config().vocab_size);
  GenerationRequest request = greedy(prompt_of(20, vocab, salt), 50);
  request.stop_ids = {3, 6};
  request.constraint = std::make_shared<Source>(rule);
  return request;
}

TEST(Constraint, EverySequenceOfABatchKeepsToItsOwn) {
  const auto made = engine();
  std::vector<Generated> generated(6);
  for (size_t i = 0; i < generated.size(); ++i) {
    const auto number = static_cast<int32_t>(i);
    GenerationRequest request =
        constrained({.divisor = 5 + number, .remainder = number, .most = 4 + number}, number);
    if (i == 5) request.constraint = nullptr;
    ASSERT_TRUE(made->submit(request, record(generated[i])));
  }
  while (made->step()) {
  }
  for (size_t i = 0; i < 5; ++i) {
    const std::vector<int32_t>& ids = generated[i].ids;
    ASSERT_EQ(ids.size(), 5 + i);
    for (size_t t = 0; t + 1 < ids.size(); ++t)
      EXPECT_EQ(ids[t] % static_cast<int32_t>(5 + i), static_cast<int32_t>(i));
    EXPECT_THAT(ids.back(), testing::AnyOf(3, 6));
    EXPECT_EQ(generated[i].result.reason, FinishReason::kStopId);
  }
  EXPECT_EQ(generated[5].finishes, 1);
}

TEST(Constraint, MinTokensDoNotBanTheOnlyWayOut) {
  GenerationRequest request = constrained({.most = 2}, 1);
  request.min_tokens = 40;
  const Generated made = run(*engine(), request);
  EXPECT_EQ(made.ids.size(), 3U);
  EXPECT_EQ(made.result.reason, FinishReason::kStopId);
}

TEST(Constraint, ADeadEndIsAFaultOfThatRequestAlone) {
  const auto made = engine();
  Generated dead;
  Generated other;
  ASSERT_TRUE(made->submit(constrained({.dead_at = 3}, 1), record(dead)));
  ASSERT_TRUE(made->submit(constrained({}, 2), record(other)));
  while (made->step()) {
  }
  EXPECT_EQ(dead.ids.size(), 3U);
  EXPECT_EQ(dead.result.reason, FinishReason::kFault);
  ASSERT_TRUE(dead.result.error);
  EXPECT_THAT(dead.result.error->message, testing::HasSubstr("allows no token after 3 tokens"));
  EXPECT_EQ(other.result.reason, FinishReason::kStopId);
}

// An interrupted step has made its masks already; the next one uses them.
TEST(Constraint, AnInterruptedStepLosesNothing) {
  const Generated whole = run(*engine(), constrained({}, 3));
  const auto made = engine();
  Generated generated;
  ASSERT_TRUE(made->submit(constrained({}, 3), record(generated)));
  for (int i = 0; i < 4; ++i) {
    CancelToken cancel;
    cancel.cancel();
    made->set_interrupt(&cancel);
    made->step();
    made->set_interrupt(nullptr);
    made->step();
  }
  while (made->step()) {
  }
  EXPECT_EQ(generated.ids, whole.ids);
}

// Fills when the device has long failed.
class Slow : public Counting {
 public:
  using Counting::Counting;
  void fill(IdMask allowed) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    Counting::fill(allowed);
  }
};

class SlowSource : public ConstraintSource {
 public:
  [[nodiscard]] std::unique_ptr<TokenConstraint> start(std::span<const int32_t> stops,
                                                       int64_t vocab) const override {
    return std::make_unique<Slow>(Rule{}, stops, vocab);
  }
};

TEST(Constraint, AMaskInTheMakingOutlivesItsRequestWhenTheDeviceFails) {
  TestModel device(data_path("conformance/conf-fp8"), "fake:reference", 128, 1);
  const auto made = make_engine(device, {.context_length = 256,
                                         .max_running = 8,
                                         .prefill_budget = 64,
                                         .pages = 40,
                                         .max_queued = -1,
                                         .prefix_cache = true});
  GenerationRequest request = greedy(prompt_of(20, 100), 8);
  request.constraint = std::make_shared<SlowSource>();
  Generated generated;
  ASSERT_TRUE(made->submit(request, record(generated)));
  device.fake->fail_at(3);
  while (made->step()) {
  }
  EXPECT_EQ(generated.finishes, 1);
  ASSERT_TRUE(generated.result.error.has_value());
  EXPECT_THAT(generated.result.error->message, testing::HasSubstr("told to fail"));
}

}  // namespace
}  // namespace longshore::engine
