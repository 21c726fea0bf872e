// The plan of GLM-5.1 in FP8 against figures worked out by hand, and plans against what loading
// counts and takes.
#include "model/serving_plan.h"

#include <fmt/format.h>
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

ModelBytes glm(const std::string& more = "", int64_t drafts = 0) {
  const auto config = Checkpoint::synthetic_config("glm-5.1:dense=3,moe=75" + more);
  LS_CHECK_MSG(config.has_value(), "{}", config.error().message);
  return model_bytes(*config, DType::kBF16, drafts);
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

TEST(ServingPlan, CountsAnMtpLayerOnlyWhereItDrafts) {
  const ModelBytes without = glm();
  const ModelBytes idle = glm(",mtp=1");
  const ModelBytes drafts = glm(",mtp=1", 3);
  const Machine small = machine(34.4, 1000);
  const ServingPlan a = plan_serving(without, small, 32768, 8192);
  const ServingPlan b = plan_serving(idle, small, 32768, 8192);
  EXPECT_TRUE(b.problems.empty()) << b.problems.front();
  EXPECT_EQ(b.device_dense, a.device_dense);
  EXPECT_EQ(b.device_cache, a.device_cache);
  EXPECT_EQ(b.device_work, a.device_work);
  EXPECT_EQ(b.device_graphs, a.device_graphs);
  EXPECT_EQ(b.resident, a.resident);
  EXPECT_EQ(b.decode_bound, a.decode_bound);
  EXPECT_EQ(idle.experts, without.experts);
  EXPECT_GT(idle.unread, 256 * idle.expert);
  EXPECT_EQ(b.host, a.host + idle.unread) << "files are read whole";

  EXPECT_EQ(drafts.unread, 0);
  EXPECT_EQ(drafts.experts, without.experts + 256 * without.expert);
  EXPECT_EQ(drafts.dense + drafts.experts, without.dense + without.experts + idle.unread);
  EXPECT_EQ(drafts.cache_token, 79 * (576 * 2 + 132));
  const ServingPlan c = plan_serving(drafts, small, 32768, 8192);
  ASSERT_EQ(c.problems.size(), 1U);
  EXPECT_THAT(c.problems[0], HasSubstr("--speculative-num-steps"));
  EXPECT_GT(c.device_dense, a.device_dense);
  EXPECT_GT(c.device_graphs, a.device_graphs);
  EXPECT_GT(c.device_work, a.device_work + kDraftRing * without.expert);
}

TEST(ServingPlan, OnACpuTheHalvesOfKvBAreBesideTheFile) {
  const ModelBytes bytes = glm();
  EXPECT_EQ(bytes.kv_b_split, int64_t{78} * 64 * (192 + 256) * 512 * 2);
  EXPECT_EQ(bytes.kv_b, bytes.kv_b_split / 2 + 78 * (64 * 448 / 128) * (512 / 128) * 4)
      << "a byte each in FP8, and scales";
  const ServingPlan plan = plan_serving(bytes, machine(0, 1000), 64, 512);
  EXPECT_EQ(plan.host, bytes.dense + bytes.embedding + bytes.experts + bytes.kv_b_split +
                           64 * bytes.cache_token);
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
  const ModelBytes bytes = model_bytes(*config, DType::kBF16, /*drafts=*/1);
  ThreadPool pool(1);
  const std::unique_ptr<FakeDevice> device = make_fake(pool);
  for (const double gb : {32.0, 80.0, 141.0}) {
    for (const int64_t chunk : {512, 2048, 8192, 16384}) {
      const Machine m = machine(gb, 1000);
      const StepLimits limits{.tokens = chunk + 2 * kPlannedSequences,
                              .sequences = kPlannedSequences,
                              .drafts = 1,
                              .context = 8192};
      const auto place = [&](const StepLimits& l) {
        return LayerState::bytes(*config, device->activation_dtype(), l.tokens) +
               StepArrays::bytes(*config, l);
      };
      // Target and draft.
      const int64_t step = Workspace::bytes(*config, *device, limits) + place(limits);
      const int64_t activations = 2 * step + place(beside_limits(limits, {}, true));
      const int64_t ring = offload::ring_for(m.device_bytes, bytes.expert) + kDraftRing;
      const int64_t taken = activations + ring * bytes.expert;
      const int64_t planned = plan_serving(bytes, m, 8192, chunk).device_work - spare_bytes(chunk);
      EXPECT_GE(planned, taken) << gb << " GB, chunks of " << chunk;
      EXPECT_LE(planned, taken + taken / 50) << gb << ", " << chunk;
    }
  }
}

// Loaded with the budget that the plan says: the device is given no more than was planned.
void expect_counted_and_taken(const std::string& dir, int64_t drafts) {
  constexpr int64_t kChunk = 64;
  constexpr int64_t kContext = 256;
  const bool with_mtp = drafts > 0;
  auto checkpoint = Checkpoint::open(dir);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const GlmConfig& config = checkpoint->config();
  const ModelBytes bytes = model_bytes(*checkpoint, DType::kBF16, drafts);
  Machine half{.device_bytes = int64_t{1} << 40, .host_bytes = int64_t{1} << 40};
  const ServingPlan whole = plan_serving(bytes, half, kContext, kChunk);
  half.device_bytes = whole.device_dense + whole.device_cache + whole.device_work +
                      whole.device_graphs + bytes.experts / 2;
  const ServingPlan plan = plan_serving(bytes, half, kContext, kChunk);
  ASSERT_TRUE(plan.problems.empty());

  ThreadPool pool(1);
  const std::unique_ptr<FakeDevice> device = make_fake(pool);
  const StepLimits limits{.tokens = kChunk + kPlannedSequences * (1 + drafts),
                          .sequences = kPlannedSequences,
                          .drafts = drafts,
                          .context = kContext};
  const auto experts = offload::HostExperts::bind(*checkpoint, config.first_k_dense, 1);
  ASSERT_TRUE(experts);
  offload::StoreOptions options;
  options.budget_bytes = plan.device_experts;
  options.ring = offload::ring_for(half.device_bytes, offload::DeviceBank::block_bytes(*experts));
  const auto memory =
      plan_memory(*checkpoint, *device, limits, with_mtp, options, 0, GraphOptions{});
  ASSERT_TRUE(memory) << memory.error().message;
  const auto near = [](int64_t a, int64_t b) { return std::abs(a - b) <= b / 100; };
  EXPECT_TRUE(near(plan.device_dense, memory->weights))
      << plan.device_dense << " and " << memory->weights;
  EXPECT_EQ(plan.device_cache, memory->cache);
  EXPECT_EQ(plan.device_graphs, memory->graphs);
  // The budget is cut between target and draft: a slot less for each at most.
  EXPECT_LE(std::abs(bytes.experts - plan.device_experts - memory->offloaded), 2 * bytes.expert);
  const int64_t work = plan.device_work - spare_bytes(kChunk);
  const int64_t ring =
      (options.ring + (with_mtp ? std::min(options.ring, kDraftRing) : 0)) * bytes.expert;
  // Tables of where experts lie are of the spare room.
  EXPECT_LE(memory->experts, plan.device_experts + ring + memory->experts / 100);
  EXPECT_LE(memory->activations, work - ring);

  auto main =
      Model::create(*checkpoint, *device, limits, target_options(options, config, with_mtp));
  ASSERT_TRUE(main) << main.error().message;
  std::optional<Mtp> draft;
  if (with_mtp) {
    auto made = Mtp::create(*checkpoint, *main, *device, limits, draft_options(options, config));
    ASSERT_TRUE(made) << made.error().message;
    draft.emplace(std::move(*made));
  }
  const auto cache =
      engine::KvPool::create(KvLayout::of(config, *device, with_mtp), engine::pages_for(kContext));
  ASSERT_TRUE(cache) << cache.error().message;
  const int64_t taken = device->memory().live_bytes();
  EXPECT_EQ(taken, memory->total() - memory->graphs);
  EXPECT_LE(taken, plan.device_dense + plan.device_cache + work + plan.device_experts);
}

TEST(ServingPlan, IsWhatIsCountedAndTaken) {
  for (const std::string& dir :
       {data_path("conformance/conf-fp8"), data_path("conformance/conf-bf16"), nano_path()}) {
    for (const int64_t drafts : {0, 1}) {
      SCOPED_TRACE(fmt::format("{}, {} drafts", dir, drafts));
      expect_counted_and_taken(dir, drafts);
    }
  }
}

TEST(ServingPlan, KvBInBf16TakesWhatItTakesInTheFile) {
  const auto retyped = [](const std::string& dir) {
    const auto checkpoint = Checkpoint::open(dir);
    LS_CHECK(checkpoint.has_value());
    return model_bytes(*checkpoint, DType::kBF16, 1).retyped();
  };
  EXPECT_EQ(retyped(data_path("conformance/conf-bf16")), 0);
  EXPECT_GT(retyped(data_path("conformance/conf-fp8")), 0);
}

}  // namespace
}  // namespace longshore::model
