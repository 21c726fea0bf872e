// The measuring of tiles, on a device whose forms take as long as they are told.
#include "bench/moe_tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/moe_config.h"
#include "kernels/moe_variants.h"
#include "tests/model/fake_device.h"

namespace longshore::bench {
namespace {

using testing::HasSubstr;

constexpr MoeShape kSmall{.hidden = 128, .intermediate = 128, .experts = 6, .top_k = 2};

class Tuning : public testing::Test {
 protected:
  Tuning() : pool(1), device(kernels::make_reference_backend(pool)) {}
  Result<MoeTimes> measure(const std::vector<int64_t>& tokens, bool joined = true,
                           bool w8a8 = false) {
    auto tuner = MoeTuner::create(device, kSmall, tokens.back());
    if (!tuner) return tl::unexpected<Error>(tuner.error());
    return tuner->measure(joined, w8a8, tokens, cancel);
  }

  ThreadPool pool;
  FakeDevice device;
  CancelToken cancel;
};

TEST_F(Tuning, ChoosesTheFastestFormForEveryNumberOfTokens) {
  const std::map<int64_t, size_t> fastest = {{1, 2}, {4, 0}, {9, 5}};
  device.form_seconds = [&](size_t form, int64_t tokens) {
    return form == fastest.at(tokens) ? 0.0 : 4e-3;
  };
  const auto times = measure({1, 4, 9});
  ASSERT_TRUE(times) << times.error().message;
  ASSERT_EQ(times->rows.size(), 3U);
  for (const MoeTimes::Row& row : times->rows) {
    EXPECT_EQ(row.best, fastest.at(row.tokens)) << times->table();
    ASSERT_TRUE(row.seconds[row.best]);
    EXPECT_GT(*row.seconds[row.best], 0);
  }
  EXPECT_THAT(times->table(), HasSubstr(kernels::kMoeVariants[5].name.data()));
}

TEST_F(Tuning, WritesWhatMoeConfigsReadsBack) {
  device.form_seconds = [](size_t form, int64_t tokens) {
    return form == (tokens == 1 ? 0 : 4) ? 0.0 : 4e-3;
  };
  const auto times = measure({1, 8}, /*joined=*/true, /*w8a8=*/true);
  ASSERT_TRUE(times) << times.error().message;
  EXPECT_EQ(times->file_name,
            "E=7,N=128,device_name=Fake_GPU,dtype=fp8_w8a8,block_shape=[128, 128].json");
  const auto table = kernels::parse_moe_config(times->json(), "made");
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->size(), 2U);
  EXPECT_EQ(kernels::nearest_variant(kernels::kMoeVariants, table->at(1)), 0U);
  EXPECT_EQ(kernels::nearest_variant(kernels::kMoeVariants, table->at(8)), 4U);
  EXPECT_GT(device.calls["experts w8a8"], 0);
  // Entries that were not measured now stay.
  const kernels::MoeTile tile{16, 64, 128, 1, 4, 3};
  const auto more = kernels::parse_moe_config(times->json({{8, tile}, {4096, tile}}), "made");
  ASSERT_TRUE(more) << more.error().message;
  EXPECT_EQ(more->size(), 3U);
  EXPECT_EQ(more->at(4096).block_n, 64);
  EXPECT_EQ(kernels::nearest_variant(kernels::kMoeVariants, more->at(8)), 4U);
}

TEST_F(Tuning, WithoutTheSharedExpertItHasOneLess) {
  const auto times = measure({2}, /*joined=*/false);
  ASSERT_TRUE(times) << times.error().message;
  EXPECT_THAT(times->file_name, HasSubstr("E=6,"));
  EXPECT_THAT(times->file_name, HasSubstr("dtype=fp8_w8a16"));
}

TEST_F(Tuning, TakesOnlyWhatTheDeviceHas) {
  device.forms = {0, 1};
  device.form_seconds = [](size_t form, int64_t) { return form == 1 ? 0.0 : 4e-3; };
  const auto times = measure({1});
  ASSERT_TRUE(times) << times.error().message;
  EXPECT_EQ(times->rows[0].best, 1U);
  for (size_t form = 2; form < std::size(kernels::kMoeVariants); ++form)
    EXPECT_FALSE(times->rows[0].seconds[form]);
  device.forms = {};
  const auto none = measure({1});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, ErrorKind::kDevice);
  EXPECT_THAT(none.error().message, HasSubstr("Fake GPU"));
}

TEST_F(Tuning, AFormWithOtherSumsIsNamed) {
  device.wrong_form = 3;
  const auto times = measure({1});
  ASSERT_FALSE(times);
  EXPECT_EQ(times.error().kind, ErrorKind::kDevice);
  EXPECT_THAT(times.error().message, HasSubstr(std::string(kernels::kMoeVariants[3].name)));
}

TEST_F(Tuning, AFaultOfTheDeviceAndACancelEndIt) {
  auto tuner = MoeTuner::create(device, kSmall, 4);
  ASSERT_TRUE(tuner) << tuner.error().message;
  device.fail_at(3);
  const auto times = tuner->measure(false, false, {1, 4}, cancel);
  ASSERT_FALSE(times);
  EXPECT_THAT(times.error().message, HasSubstr("told to fail"));
  cancel.cancel();
  const auto cancelled = tuner->measure(false, false, {1}, cancel);
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().kind, ErrorKind::kCancelled);
}

TEST(TuningShapes, OutOfRangeIsRefusedByName) {
  EXPECT_TRUE(MoeShape{}.validate());
  MoeShape shape;
  shape.intermediate = 200;
  EXPECT_THAT(shape.validate().error().message, HasSubstr("N = 200"));
  shape = {.experts = 4, .top_k = 5};
  EXPECT_THAT(shape.validate().error().message, HasSubstr("5 experts a token"));
}

TEST(TuningBackends, OneWithoutFormsIsRefusedByName) {
  ThreadPool pool(1);
  const auto backend = kernels::make_reference_backend(pool);
  const auto tuner = MoeTuner::create(*backend, kSmall, 1);
  ASSERT_FALSE(tuner);
  EXPECT_EQ(tuner.error().kind, ErrorKind::kDevice);
  EXPECT_THAT(tuner.error().message, HasSubstr("reference"));
}

}  // namespace
}  // namespace longshore::bench
