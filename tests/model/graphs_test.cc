// A decode step that a device runs as a captured graph gives what its operations give one by one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/step_batch.h"

namespace longshore {
namespace {

using model::GraphOptions;
using model::StepLimits;
using model::StepShape;
using testing::ElementsAre;
using testing::HasSubstr;

std::string conformance(const std::string& name) {
  return data_path("conformance/" + name);
}

std::vector<int64_t> rows_of(const std::vector<StepShape>& shapes) {
  std::vector<int64_t> rows;
  for (const StepShape& shape : shapes) rows.push_back(shape.rows);
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

TEST(StepShapes, RowsDoubleToEightAndPagesFromIndexTopKToTheContext) {
  GlmConfig config{};
  config.index_top_k = 2048;
  config.max_positions = 202752;
  const StepLimits limits{.tokens = 512, .sequences = 20, .context = 10000};
  EXPECT_THAT(rows_of(step_shapes(config, limits, {})), ElementsAre(1, 2, 4, 8, 16, 20));
  EXPECT_THAT(
      step_shapes(config, limits, {.rows = {3}}),
      ElementsAre(StepShape{3, 32}, StepShape{3, 64}, StepShape{3, 128}, StepShape{3, 157}));
  EXPECT_THAT(rows_of(step_shapes(config, limits, {.max_rows = 4})), ElementsAre(1, 2, 4));
  EXPECT_THAT(rows_of(step_shapes(config, limits, {.rows = {64, 2, 2}})), ElementsAre(2));
  const StepLimits many{.tokens = 512, .sequences = 64, .context = 100};
  EXPECT_THAT(step_shapes(config, many, {.max_rows = 1}), ElementsAre(StepShape{1, 2}));
  EXPECT_EQ(rows_of(step_shapes(config, many, {})).back(), 32);
  EXPECT_TRUE(step_shapes(config, limits, {.on = false}).empty());
}

TEST(StepShapes, GuessesMakeRowsOfEveryCountUpToEight) {
  GlmConfig config{};
  config.index_top_k = 2048;
  config.max_positions = 4096;
  const StepLimits limits{.tokens = 512, .sequences = 4, .drafts = 3, .context = 100};
  EXPECT_THAT(rows_of(step_shapes(config, limits, {})), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 16));
  const StepLimits many{.tokens = 512, .sequences = 64, .drafts = 3, .context = 100};
  EXPECT_EQ(rows_of(step_shapes(config, many, {})).back(), 64);
}

class Captured : public testing::TestWithParam<const char*> {};

// Steps of 1 to 5 rows in graphs of 1, 2 and 4 and past them, contexts over two widths, batches
// that change, several rows of one sequence: all as without graphs, bit for bit.
TEST_P(Captured, StepsGiveTheSameNumbers) {
  TestModel plain(conformance(GetParam()), "fake:reference", 64, 1, 8);
  TestModel quick(conformance(GetParam()), "fake:reference", 64, 1, 8);
  StepBatch expected(plain, 5, 3);
  StepBatch actual(quick, 5, 3);
  ASSERT_TRUE(quick.model->capture_steps(actual.pool.caches(), {.max_rows = 4}));
  EXPECT_EQ(static_cast<size_t>(quick.model->captured_steps()), quick.fake->live_graphs());
  ASSERT_GT(quick.model->captured_steps(), 3);
  EXPECT_EQ(quick.model->experts().counters().routes, 0) << "capturing is no step";
  const int64_t uploads = quick.fake->memory().uploads;
  const int64_t bytes = quick.fake->memory().live_bytes();
  const std::vector<std::pair<std::vector<int64_t>, int64_t>> steps = {{{0}, 40},
                                                                       {{1}, 60},
                                                                       {{0, 1, 2}, 1},
                                                                       {{2, 0}, 1},
                                                                       {{0}, 1},
                                                                       {{3, 1, 0, 2}, 1},
                                                                       {{1}, 3},
                                                                       {{1}, 1},
                                                                       {{0, 1}, 2},
                                                                       {{4}, 1},
                                                                       {{0, 1, 2, 3, 4}, 1},
                                                                       {{1}, 60},
                                                                       {{1, 4}, 1}};
  int64_t replayed = 0;
  for (const auto& [sequences, tokens] : steps) {
    const auto a = expected.step(sequences, tokens);
    const auto b = actual.step(sequences, tokens);
    ASSERT_TRUE(a && b);
    EXPECT_EQ(*a, *b) << sequences.size() << " sequences of " << tokens;
    replayed += static_cast<int64_t>(sequences.size()) * tokens <= 4 ? 1 : 0;
  }
  EXPECT_EQ(quick.model->replayed_steps(), replayed);
  EXPECT_EQ(quick.fake->launches, replayed);
  EXPECT_EQ(quick.fake->memory().uploads, uploads);
  EXPECT_EQ(quick.fake->memory().live_bytes(), bytes) << "no allocation while serving";
  EXPECT_EQ(plain.model->experts().counters().routes, quick.model->experts().counters().routes);
}

INSTANTIATE_TEST_SUITE_P(All, Captured, testing::Values("conf-bf16", "conf-indexshare", "conf-fp8"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Rounded up, a step may run in kernels for more rows: bf16 rounding differs.
TEST(CapturedSteps, GiveTheSameNumbersOnAGpu) {
  if (const auto gpu = kernels::make_cuda_backend({}); !gpu) GTEST_SKIP() << gpu.error().message;
  for (const std::string& dir : {nano_path(), conformance("conf-fp8")}) {
    TestModel plain(dir, "cuda", 256, 1, 8);
    TestModel quick(dir, "cuda", 256, 1, 8);
    StepBatch expected(plain, 5, 3);
    StepBatch actual(quick, 5, 3);
    const auto captured = quick.model->capture_steps(actual.pool.caches(), {});
    ASSERT_TRUE(captured) << captured.error().message;
    const std::vector<std::pair<std::vector<int64_t>, int64_t>> steps = {
        {{0}, 100}, {{1}, 60}, {{0}, 1}, {{0, 1}, 1}, {{2, 0, 1}, 1}, {{1}, 5}, {{0, 1, 2, 3}, 1}};
    for (const auto& [sequences, tokens] : steps) {
      const auto a = expected.step(sequences, tokens);
      const auto b = actual.step(sequences, tokens);
      ASSERT_TRUE(a && b);
      const auto rows = static_cast<int64_t>(sequences.size()) * tokens;
      EXPECT_LT(relative_error(*b, *a), rows == 3 || rows == 5 ? 0.02 : 1e-6)
          << dir << ", " << rows;
    }
    EXPECT_EQ(quick.model->replayed_steps(), 5);
  }
}

TEST(CapturedSteps, OtherCachesAndObserversRunWithoutThem) {
  TestModel test(conformance("conf-bf16"), "fake:reference", 64, 1, 8);
  StepBatch captured(test, 1, 1);
  StepBatch other(test, 1, 1);
  ASSERT_TRUE(test.model->capture_steps(captured.pool.caches(), {.max_rows = 1}));
  ASSERT_TRUE(other.step({0}, 1));
  EXPECT_EQ(test.model->replayed_steps(), 0);
  ASSERT_TRUE(captured.step({0}, 1));
  EXPECT_EQ(test.model->replayed_steps(), 1);
  ASSERT_TRUE(test.model->capture_steps(other.pool.caches(), {.on = false}));
  EXPECT_EQ(test.fake->live_graphs(), 0U);
}

TEST(CapturedSteps, AFaultInAReplayIsAnErrorAndStays) {
  TestModel test(conformance("conf-bf16"), "fake:reference", 64, 1, 8);
  StepBatch batch(test, 1, 1);
  ASSERT_TRUE(test.model->capture_steps(batch.pool.caches(), {.max_rows = 1}));
  ASSERT_TRUE(batch.step({0}, 1));
  test.fake->fail_at(9);
  for (int i = 0; i < 2; ++i) {
    const auto failed = batch.step({0}, 1);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().kind, ErrorKind::kDevice);
    EXPECT_THAT(failed.error().message, HasSubstr("told to fail"));
  }
}

TEST(CapturedSteps, ARefusedCaptureEndsTheStart) {
  TestModel test(conformance("conf-bf16"), "fake:reference", 64, 1, 8);
  StepBatch batch(test, 1, 1);
  test.fake->fail_capture_in = 2;
  const auto refused = test.model->capture_steps(batch.pool.caches(), {.max_rows = 4});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kDevice);
}

}  // namespace
}  // namespace longshore
