// The plan of GLM-5.1 in FP8 against figures worked out by hand.
#include "model/serving_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshore::model {
namespace {

using testing::HasSubstr;

ModelBytes glm() {
  const auto config = Checkpoint::synthetic_config("glm-5.1:dense=3,moe=75");
  LS_CHECK_MSG(config.has_value(), "{}", config.error().message);
  return model_bytes(*config);
}

Machine machine(double device_gb, double host_gb) {
  return {.device_bytes = static_cast<int64_t>(device_gb * 1e9),
          .host_bytes = static_cast<int64_t>(host_gb * 1e9),
          .wire_gbs = 55,
          .dram_gbs = 160,
          .device_gbs = 4000};
}

TEST(ServingPlan, KnowsTheBytesOfGlm) {
  const ModelBytes bytes = glm();
  // Three matrices of 2048 x 6144 bytes and a scale for every 128 x 128.
  EXPECT_EQ(bytes.expert, 3 * (2048 * 6144 + 16 * 48 * 4));
  EXPECT_NEAR(static_cast<double>(bytes.experts) / 1e9, 75 * 256 * 37.758e-3, 0.5);
  EXPECT_EQ(bytes.moe_layers, 75);
  // 576 numbers in bf16 and a key of 132 bytes, 78 layers.
  EXPECT_EQ(bytes.cache_token, 78 * (576 * 2 + 132));
  const auto config = Checkpoint::synthetic_config("glm-5.1:dense=3,moe=75");
  EXPECT_EQ(model_bytes(*config, DType::kF8E4M3).cache_token, 78 * (656 + 132));
}

TEST(ServingPlan, SplitsALayerAsWorkedOutByHand) {
  const Machine m = machine(80, 1000);
  constexpr int64_t kExpert = 37750000;
  EXPECT_NEAR(layer_seconds(8, kExpert, {.wire_gbs = 55, .dram_gbs = 1e-9}) * 75, 0.41, 0.005)
      << "all fetched";
  EXPECT_NEAR(layer_seconds(8, kExpert, {.wire_gbs = 1e-9, .dram_gbs = 160}) * 75, 0.14, 0.005)
      << "all on the CPU";
  EXPECT_NEAR(layer_seconds(8, kExpert, m) * 75, 6 * kExpert / 160e9 * 75, 1e-9) << "2 : 6";
  EXPECT_EQ(layer_seconds(0, kExpert, m), 0);
}

TEST(ServingPlan, StreamsEveryExpertOnceAChunk) {
  const ServingPlan plan = plan_serving(glm(), machine(32, 1000), 8192, 8192);
  EXPECT_TRUE(plan.problems.empty()) << plan.problems.front();
  const double share = static_cast<double>(plan.resident) / (75.0 * 256);
  EXPECT_NEAR(plan.prefill_bound, 8192 / (724.9e9 * (1 - share) / 55e9), 3);
  EXPECT_LE(plan.device_dense + plan.device_cache + plan.device_work + plan.device_experts,
            32000000000);
}

TEST(ServingPlan, MoreMemoryHoldsMoreExpertsAndIsFaster) {
  double before = 0;
  for (const double gb : {32.0, 80.0, 141.0, 800.0}) {
    const ServingPlan plan = plan_serving(glm(), machine(gb, 1000), 8192, 2048);
    EXPECT_TRUE(plan.problems.empty()) << gb;
    EXPECT_GT(plan.decode_bound, before) << gb;
    before = plan.decode_bound;
  }
  const ServingPlan all = plan_serving(glm(), machine(800, 100), 8192, 2048);
  EXPECT_EQ(all.resident, 75 * 256);
  EXPECT_EQ(all.host, 0) << "and the host needs none";
  EXPECT_EQ(all.prefill_bound, 0);
}

TEST(ServingPlan, SaysWhatDoesNotFit) {
  const ServingPlan host = plan_serving(glm(), machine(80, 500), 8192, 8192);
  ASSERT_EQ(host.problems.size(), 1U);
  EXPECT_THAT(host.problems[0], HasSubstr("of host memory, the host has 500.0"));
  const ServingPlan device = plan_serving(glm(), machine(10, 1000), 8192, 8192);
  ASSERT_EQ(device.problems.size(), 1U);
  EXPECT_THAT(device.problems[0], HasSubstr("--context-length"));
  const ServingPlan none = plan_serving(glm(), machine(0, 500), 8192, 8192);
  ASSERT_EQ(none.problems.size(), 1U);
  EXPECT_EQ(none.resident, 0);
}

}  // namespace
}  // namespace longshore::model
