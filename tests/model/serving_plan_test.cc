// The plan of GLM-5.1 in FP8 against figures worked out by hand, and plans against what loading
// counts and takes.
#include "model/serving_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/kv_pool.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/step_arrays.h"
#include "offload/device_bank.h"
#include "tests/model/golden.h"

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

std::unique_ptr<FakeDevice> make_fake(ThreadPool& pool) {
  auto inner = kernels::make_cpu_backend(pool, "generic");
  LS_CHECK(inner.has_value());
  return std::make_unique<FakeDevice>(std::move(*inner));
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

// What the device holds beside weights and cache, worked out from the headers of GLM-5.1 alone.
TEST(ServingPlan, TheDevicesWorkIsWhatLoadingTakes) {
  const auto config = Checkpoint::synthetic_config("glm-5.1:dense=3,moe=75,mtp=1");
  ASSERT_TRUE(config) << config.error().message;
  const ModelBytes bytes = model_bytes(*config);
  ThreadPool pool(1);
  const std::unique_ptr<FakeDevice> device = make_fake(pool);
  for (const double gb : {32.0, 80.0, 141.0}) {
    for (const int64_t chunk : {512, 2048, 8192, 16384}) {
      const Machine m = machine(gb, 1000);
      const StepLimits limits{.tokens = chunk + 16, .sequences = 16, .context = 8192};
      const auto place = [&](const StepLimits& l) {
        return LayerState::bytes(*config, l.tokens) + StepArrays::bytes(*config, l);
      };
      // Target and draft.
      const int64_t step = Workspace::bytes(*config, *device, limits) + place(limits);
      const int64_t activations = 2 * step + place(beside_limits(limits, {}, true));
      const int64_t scratch = std::max(int64_t{512} << 20, chunk * (int64_t{128} << 10));
      const int64_t ring = offload::ring_for(m.device_bytes, bytes.expert) + 32;
      const int64_t taken = activations + scratch + ring * bytes.expert;
      const int64_t planned = plan_serving(bytes, m, 8192, chunk).device_work;
      EXPECT_GE(planned, taken) << gb << " GB, chunks of " << chunk;
      // The driver's room.
      EXPECT_LE(planned, taken + taken / 50 + (int64_t{512} << 20)) << gb << ", " << chunk;
    }
  }
}

// Loaded with the budget that the plan says: the device is given no more than was planned.
TEST(ServingPlan, IsWhatIsCountedAndTaken) {
  constexpr int64_t kChunk = 64;
  constexpr int64_t kContext = 256;
  for (const std::string& dir : {data_path("conformance/conf-fp8"), nano_path()}) {
    auto checkpoint = Checkpoint::open(dir);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    const ModelBytes bytes = model_bytes(*checkpoint);
    Machine half{.device_bytes = int64_t{1} << 40, .host_bytes = int64_t{1} << 40};
    const ServingPlan whole = plan_serving(bytes, half, kContext, kChunk);
    half.device_bytes =
        whole.device_dense + whole.device_cache + whole.device_work + bytes.experts / 2;
    const ServingPlan plan = plan_serving(bytes, half, kContext, kChunk);
    ASSERT_TRUE(plan.problems.empty());

    ThreadPool pool(1);
    const std::unique_ptr<FakeDevice> device = make_fake(pool);
    const StepLimits limits{.tokens = kChunk + 4, .sequences = 4, .context = kContext};
    const auto experts =
        offload::HostExperts::bind(*checkpoint, checkpoint->config().first_k_dense, 1);
    ASSERT_TRUE(experts);
    offload::StoreOptions options;
    options.budget_bytes = plan.device_experts;
    options.ring = offload::ring_for(half.device_bytes, offload::DeviceBank::block_bytes(*experts));
    const auto memory = plan_memory(*checkpoint, *device, limits, /*with_mtp=*/true, options);
    ASSERT_TRUE(memory) << memory.error().message;
    const auto near = [](int64_t a, int64_t b) { return std::abs(a - b) <= b / 100; };
    EXPECT_TRUE(near(plan.device_dense, memory->weights))
        << plan.device_dense << " and " << memory->weights;
    EXPECT_EQ(plan.device_cache, memory->cache);
    // The budget is cut between target and draft: a slot less for each at most.
    EXPECT_LE(std::abs(bytes.experts - plan.device_experts - memory->offloaded), 2 * bytes.expert);
    EXPECT_LE(memory->experts + memory->activations, plan.device_experts + plan.device_work);

    const GlmConfig& config = checkpoint->config();
    auto main = Model::create(*checkpoint, *device, limits, target_options(options, config, true));
    ASSERT_TRUE(main) << main.error().message;
    const auto draft =
        Mtp::create(*checkpoint, *main, *device, limits, draft_options(options, config));
    ASSERT_TRUE(draft) << draft.error().message;
    const auto cache = engine::KvPool::create(KvLayout::of(config, *device, /*with_mtp=*/true),
                                              engine::pages_for(kContext));
    ASSERT_TRUE(cache) << cache.error().message;
    EXPECT_EQ(device->memory().live_bytes(), memory->total());
    EXPECT_LE(memory->total(),
              plan.device_dense + plan.device_cache + plan.device_work + plan.device_experts);
    EXPECT_LE(memory->total(), half.device_bytes);
  }
}

}  // namespace
}  // namespace longshore::model
