// A captured decode step whose experts the host decides on gives what the resident model gives, at
// every budget, and ends whatever goes wrong in it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/budget.h"
#include "tests/model/step_batch.h"

namespace longshore {
namespace {

using offload::ExpertCounters;
using offload::StoreOptions;
using testing::HasSubstr;

// Sums of experts in another order.
constexpr double kTolerance = 2e-5;

std::string conformance(const std::string& name) {
  return data_path("conformance/" + name);
}

struct Setting {
  double share;         // of all experts that have slots
  double forced_fetch;  // negative: as costs say
  bool with_cpu;
  int64_t ring = 8;
};

void PrintTo(const Setting& s, std::ostream* out) {
  *out << s.share << " resident, fetch " << s.forced_fetch << (s.with_cpu ? ", CPU" : "");
}

StoreOptions options_for(const std::string& dir, const Setting& setting) {
  StoreOptions options;
  options.budget_bytes = budget_for(dir, setting.share);
  options.ring = setting.ring;
  options.forced_fetch = setting.forced_fetch;
  options.costs = {.wire_bytes_per_second = 1e10, .cpu_seconds_one_token = 1e-6};
  return options;
}

TestModel make(const std::string& dir, const Setting& setting, const std::string& backend) {
  return {dir, backend, 64, 1, 8, options_for(dir, setting), setting.with_cpu};
}

void expect_conserved(const model::Model& model) {
  const ExpertCounters& c = model.experts().counters();
  EXPECT_EQ(c.routed_experts, c.hits + c.fetched + c.computed_on_cpu + c.shared);
  model.experts().device()->slots().check_conservation(/*idle=*/true);
}

using Steps = std::vector<std::pair<std::vector<int64_t>, int64_t>>;

// Prompts, then steps of 1 to 5 rows in graphs of 1, 2 and 4 and past them.
Steps mixed_steps() {
  return {{{0}, 20}, {{1}, 30}, {{0, 1, 2}, 1}, {{2, 0}, 1},          {{0}, 1},
          {{1}, 3},  {{1}, 1},  {{0, 1}, 2},    {{0, 1, 2, 3, 4}, 1}, {{4}, 1}};
}

class CapturedOffload : public testing::TestWithParam<std::tuple<const char*, Setting>> {};

TEST_P(CapturedOffload, GivesTheResidentModelsNumbers) {
  const auto& [name, setting] = GetParam();
  const std::string dir = conformance(name);
  TestModel resident(dir, "fake:reference", 64, 1, 8);
  TestModel plain = make(dir, setting, "fake:reference");
  TestModel quick = make(dir, setting, "fake:reference");
  StepBatch expected(resident, 5, 2);
  StepBatch one_by_one(plain, 5, 2);
  StepBatch actual(quick, 5, 2);
  ASSERT_TRUE(quick.model->capture_steps(actual.pool.caches(), {.max_rows = 4}));
  ASSERT_GT(quick.model->captured_steps(), 2);
  const ExpertCounters& c = quick.model->experts().counters();
  EXPECT_EQ(c.routes, 0) << "capturing is no step";
  EXPECT_EQ(quick.fake->transfers()->copies, 0);
  const int64_t uploads = quick.fake->memory().uploads;
  const int64_t bytes = quick.fake->memory().live_bytes();
  for (const auto& [sequences, tokens] : mixed_steps()) {
    const auto a = expected.step(sequences, tokens);
    const auto b = actual.step(sequences, tokens);
    const auto same = one_by_one.step(sequences, tokens);
    ASSERT_TRUE(a && b && same);
    EXPECT_LE(relative_error(*b, *a), kTolerance) << sequences.size() << " x " << tokens;
    // Costs that were measured may decide otherwise.
    if (setting.forced_fetch >= 0 || !setting.with_cpu) {
      EXPECT_EQ(*b, *same);
    }
    expect_conserved(*quick.model);
  }
  EXPECT_EQ(quick.model->replayed_steps(), 7);
  EXPECT_EQ(quick.fake->launches, 7);
  EXPECT_EQ(quick.fake->memory().uploads, uploads) << "only the wire moves weights";
  EXPECT_EQ(quick.fake->memory().live_bytes(), bytes) << "no allocation while serving";
  const ExpertCounters& p = plain.model->experts().counters();
  EXPECT_EQ(c.routes, p.routes);
  EXPECT_EQ(c.routed_experts, p.routed_experts);
  if (setting.forced_fetch >= 0) {
    EXPECT_EQ(c.hits, p.hits);
    EXPECT_EQ(c.fetched, p.fetched);
    EXPECT_EQ(c.shared, p.shared);
  }
  if (setting.forced_fetch > 0 && setting.forced_fetch < 1) {
    EXPECT_GT(c.shared, 0) << "experts shared by CPU and wire";
    EXPECT_GT(quick.fake->transfers()->copies_of_rows, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, CapturedOffload,
    testing::Combine(testing::Values("conf-bf16", "conf-fp8"),
                     testing::Values(Setting{0, -1, true}, Setting{0, 0, true}, Setting{0, 1, true},
                                     Setting{0.3, 0.5, true}, Setting{0.6, -1, true},
                                     Setting{0.95, 1, true, 2}, Setting{0.02, 0.7, true, 3},
                                     Setting{0.4, -1, false, 64})),
    [](const auto& info) {
      std::string name = std::get<0>(info.param);
      std::replace(name.begin(), name.end(), '-', '_');
      return name + "_" + std::to_string(info.index);
    });

// The same part of every expert that CPU and wire share stays zeros on the device, whichever expert
// it is.
TEST(CapturedOffloadSteps, WriteTheZerosOfSharedExpertsOnce) {
  const std::string dir = conformance("conf-fp8");
  TestModel tested = make(dir, Setting{0, 0.3, true}, "fake:reference");
  StepBatch batch(tested, 5, 2);
  ASSERT_TRUE(batch.step({0}, 20));
  for (int step = 0; step < 6; ++step) ASSERT_TRUE(batch.step({0}, 1));
  const ExpertCounters& c = tested.model->experts().counters();
  EXPECT_GT(c.shared, 3);
  EXPECT_GT(tested.fake->transfers()->cleared_bytes, 0);
  EXPECT_LE(tested.fake->transfers()->cleared_bytes, tested.model->experts().expert_bytes());
}

TEST(CapturedOffloadSteps, GiveTheSameNumbersOnAGpu) {
  if (const auto gpu = kernels::make_cuda_backend({}); !gpu) GTEST_SKIP() << gpu.error().message;
  for (const std::string& dir : {nano_path(), conformance("conf-fp8")}) {
    TestModel resident(dir, "cuda", 64, 2, 8);
    StepBatch expected(resident, 5, 2);
    Steps steps = mixed_steps();
    std::vector<std::vector<float>> logits;
    for (const auto& [sequences, tokens] : steps) {
      auto got = expected.step(sequences, tokens);
      ASSERT_TRUE(got) << got.error().message;
      logits.push_back(std::move(*got));
    }
    for (const Setting& setting : {Setting{0, -1, true}, Setting{0.3, 1, true},
                                   Setting{0.3, 0.5, true}, Setting{0.6, 0, true}}) {
      TestModel quick = make(dir, setting, "cuda");
      StepBatch actual(quick, 5, 2);
      const auto captured = quick.model->capture_steps(actual.pool.caches(), {});
      ASSERT_TRUE(captured) << captured.error().message;
      for (size_t i = 0; i < steps.size(); ++i) {
        const auto got = actual.step(steps[i].first, steps[i].second);
        ASSERT_TRUE(got) << got.error().message;
        EXPECT_LT(relative_error(*got, logits[i]), 0.03) << dir << ", step " << i;
        expect_conserved(*quick.model);
      }
      EXPECT_EQ(quick.model->replayed_steps(), 8);
    }
  }
}

TEST(CapturedOffloadSteps, ABudgetThatChangesNeedsNoNewCapture) {
  const std::string dir = conformance("conf-fp8");
  TestModel resident(dir, "fake:reference", 64, 1, 8);
  TestModel quick = make(dir, {0.6, 1, true}, "fake:reference");
  StepBatch expected(resident, 1, 2);
  StepBatch actual(quick, 1, 2);
  ASSERT_TRUE(quick.model->capture_steps(actual.pool.caches(), {.max_rows = 1}));
  const int64_t graphs = quick.model->captured_steps();
  offload::ExpertStore& store = quick.model->experts();
  const int64_t block = offload::DeviceBank::block_bytes(store.experts());
  const int64_t slots = store.slots();
  ASSERT_GE(slots, 3);
  for (const int64_t limit : {slots, int64_t{1}, int64_t{0}, slots / 2, slots}) {
    ASSERT_TRUE(store.limit_slots(limit * block));
    for (int i = 0; i < 12; ++i) {
      const auto a = expected.step({0}, 1);
      const auto b = actual.step({0}, 1);
      ASSERT_TRUE(a && b);
      EXPECT_LE(relative_error(*b, *a), kTolerance) << limit;
    }
    EXPECT_LE(store.device()->slots().counts().resident, limit);
    expect_conserved(*quick.model);
  }
  EXPECT_EQ(store.device()->slots().counts().resident, slots) << "all are used again";
  EXPECT_EQ(quick.fake->launches, 60);
  EXPECT_EQ(static_cast<int64_t>(quick.fake->live_graphs()), graphs);
}

TEST(CapturedOffloadSteps, AFailingCopyEndsTheStepWithItsError) {
  for (const int64_t copy : {1, 2, 3, 8, 20}) {
    TestModel test = make(conformance("conf-fp8"), {0.3, 1, true}, "fake:reference");
    StepBatch batch(test, 1, 1);
    ASSERT_TRUE(test.model->capture_steps(batch.pool.caches(), {.max_rows = 1}));
    test.fake->transfers()->fail_copy_at = test.fake->transfers()->copies + copy;
    Result<std::vector<float>> logits = batch.step({0}, 1);
    for (int i = 0; i < 10 && logits; ++i) logits = batch.step({0}, 1);
    for (int i = 0; i < 2; ++i) {
      ASSERT_FALSE(logits) << copy;
      EXPECT_EQ(logits.error().kind, ErrorKind::kDevice);
      EXPECT_THAT(logits.error().message, HasSubstr("a copy on the fake device"));
      expect_conserved(*test.model);
      logits = batch.step({0}, 1);
    }
  }
}

TEST(CapturedOffloadSteps, AFaultAnywhereEndsTheStepWithItsError) {
  TestModel sound = make(conformance("conf-fp8"), {0.3, 0.5, true}, "fake:reference");
  StepBatch steps(sound, 1, 1);
  ASSERT_TRUE(sound.model->capture_steps(steps.pool.caches(), {.max_rows = 1}));
  const int64_t before = sound.fake->operations();
  ASSERT_TRUE(steps.step({0}, 1));
  const int64_t operations = sound.fake->operations() - before;
  ASSERT_GT(operations, 20);
  for (int64_t n = 1; n <= operations; n += 5) {
    TestModel test = make(conformance("conf-fp8"), {0.3, 0.5, true}, "fake:reference");
    StepBatch batch(test, 1, 1);
    ASSERT_TRUE(test.model->capture_steps(batch.pool.caches(), {.max_rows = 1}));
    test.fake->fail_at(n);
    const auto failed = batch.step({0}, 1);
    ASSERT_FALSE(failed) << n;
    EXPECT_THAT(failed.error().message, HasSubstr("told to fail"));
    expect_conserved(*test.model);
  }
}

TEST(CapturedOffloadSteps, NoneIsCapturedWhereTheDeviceDoesNotGoOnBesideTheHost) {
  TestModel test = make(conformance("conf-fp8"), {0.3, 0.5, true}, "fake:reference");
  StepBatch batch(test, 1, 1);
  test.fake->concurrent_ = false;
  ASSERT_TRUE(test.model->capture_steps(batch.pool.caches(), {.max_rows = 1}));
  EXPECT_EQ(test.model->captured_steps(), 0);
  EXPECT_TRUE(batch.step({0}, 1));
}

TEST(CapturedOffloadSteps, ACancelledStepEndsAtOnceAndCanBeMadeAgain) {
  const std::string dir = conformance("conf-fp8");
  // With slots, an expert may come to one that the device is never told of.
  for (const auto& [copy, share] : {std::pair{1, 0.0}, {2, 0.0}, {4, 0.0}, {1, 0.5}, {2, 0.5}}) {
    TestModel resident(dir, "fake:reference", 64, 1, 8);
    TestModel quick = make(dir, {share, 1, true}, "fake:reference");
    StepBatch expected(resident, 2, 1);
    StepBatch actual(quick, 2, 1);
    ASSERT_TRUE(quick.model->capture_steps(actual.pool.caches(), {.max_rows = 1}));
    ASSERT_TRUE(expected.step({1}, 3) && actual.step({1}, 3));
    ASSERT_TRUE(expected.step({0}, 1) && actual.step({0}, 1));

    CancelToken cancel;
    FakeTransfers& wire = *quick.fake->transfers();
    wire.on_copy = [&wire, &cancel, at = wire.copies + copy] {
      if (wire.copies == at) cancel.cancel();
    };
    const auto random = actual.random;
    const auto stopped = actual.step({0}, 1, &cancel);
    ASSERT_FALSE(stopped) << copy;
    EXPECT_EQ(stopped.error().kind, ErrorKind::kCancelled);
    EXPECT_LT(wire.copies, copy + 60);
    expect_conserved(*quick.model);

    actual.random = random;
    --actual.lengths[0];
    for (const int64_t sequence : {0, 1, 0}) {
      const auto a = expected.step({sequence}, 1);
      const auto b = actual.step({sequence}, 1);
      ASSERT_TRUE(a && b);
      EXPECT_LE(relative_error(*b, *a), kTolerance);
    }
  }
}

TEST(FakeDeviceDeath, AWaitThatNobodyEndsIsFound) {
  ThreadPool pool(1);
  FakeDevice device(kernels::make_reference_backend(pool));
  int32_t word = 0;
  device.wait_for_host(&word, 1);
  EXPECT_DEATH((void)device.synchronize(), "nobody will write");
  word = 1;
  EXPECT_TRUE(device.synchronize());
}

}  // namespace
}  // namespace longshore
