// The model on a device whose memory the host cannot read gives what it gives on the host.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/memory_plan.h"
#include "tests/model/golden.h"
#include "tests/model/recorder.h"

namespace longshore {
namespace {

using testing::HasSubstr;

std::string conformance(const std::string& name) {
  return data_path("conformance/" + name);
}

std::vector<int32_t> golden_ids(const std::string& name) {
  return GoldenFile(data_path("goldens/" + name + "/golden.safetensors")).ints("input_ids");
}

TEST(FakeDeviceDeathTest, TheHostCannotTouchItsMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ThreadPool pool(1);
  FakeDevice device(kernels::make_reference_backend(pool));
  auto buffer = device::Buffer::allocate(device.memory(), 64, "four numbers");
  ASSERT_TRUE(buffer);
  volatile std::byte* data = buffer->data();
  EXPECT_DEATH({ data[0] = std::byte{1}; }, "");
  const float host[2] = {1, 2};
  kernels::SiluMulParams params;
  params.gate = {reinterpret_cast<const std::byte*>(host), DType::kF32, 1, 2, 2};
  EXPECT_DEATH(device.silu_mul(params), "gate is not in the device's memory");
}

TEST(FakeDevice, GivesBackWhatWasUploaded) {
  ThreadPool pool(1);
  FakeDevice device(kernels::make_reference_backend(pool));
  auto buffer = device::Buffer::allocate(device.memory(), 8, "two numbers");
  ASSERT_TRUE(buffer);
  const int32_t in[2] = {3, -7};
  device.copy_ints(in, 2, reinterpret_cast<int32_t*>(buffer->data()));
  int32_t out[2] = {};
  ASSERT_TRUE(device.memory().download(out, buffer->data(), 8));
  EXPECT_EQ(out[0], 3);
  EXPECT_EQ(out[1], -7);
}

class OnADevice : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

// Logits, hidden states and what an observer sees, bit for bit. 16 sequences make the 40 rows of
// logits come in blocks.
TEST_P(OnADevice, EveryNumberIsTheHosts) {
  const auto [name, backend] = GetParam();
  const std::vector<int32_t> ids = golden_ids(name);
  TestModel host(conformance(name), backend, 64, 2, 16);
  TestModel device(conformance(name), std::string("fake:") + backend, 64, 2, 16);
  const bool blocks = std::string(backend) == "reference";
  for (const int64_t chunk : {blocks ? 40 : 16, 7}) {
    Recorder expected(40, true);
    Recorder actual(40, true);
    const engine::Scores a = host.score(ids, -1, chunk, true, &expected);
    const int64_t uploads = device.fake->memory().uploads;
    const engine::Scores b = device.score(ids, -1, chunk, true, &actual);
    EXPECT_EQ(device.fake->memory().uploads, uploads) << "the copy engine belongs to the weights";
    EXPECT_EQ(a.logits, b.logits) << chunk;
    EXPECT_EQ(a.hidden, b.hidden) << chunk;
    EXPECT_EQ(a.mtp_logits, b.mtp_logits) << chunk;
    EXPECT_EQ(a.mtp_hidden, b.mtp_hidden) << chunk;
    EXPECT_EQ(expected.hidden, actual.hidden);
    EXPECT_EQ(expected.selected, actual.selected);
    EXPECT_EQ(expected.scores, actual.scores);
    EXPECT_EQ(expected.route_ids, actual.route_ids);
    EXPECT_EQ(expected.route_weights, actual.route_weights);
    EXPECT_EQ(actual.hidden.size(), static_cast<size_t>(host.model->config().num_layers) + 1);
  }
}

INSTANTIATE_TEST_SUITE_P(All, OnADevice,
                         testing::Combine(testing::Values("conf-bf16", "conf-indexshare",
                                                          "conf-fp8"),
                                          testing::Values("reference", "generic")),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + "_" + std::get<1>(info.param);
                         });

// In every layer, MTP's included, whether the host computes or a device.
TEST(DeviceModel, Fp8LatentsChangeTheNumbersALittleAndTheDeviceHasTheHosts) {
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  const auto make = [&](const char* backend, std::optional<DType> latents) {
    return TestModel(conformance("conf-fp8"), backend, 64, 1, 64, {}, false, latents);
  };
  TestModel host = make("reference", DType::kF8E4M3);
  TestModel device = make("fake:reference", DType::kF8E4M3);
  TestModel exact = make("reference", std::nullopt);
  EXPECT_LT(host.layout.latent_page_bytes(), exact.layout.latent_page_bytes());
  const engine::Scores a = host.score(ids, -1, 40, true);
  const engine::Scores b = device.score(ids, -1, 7, true);
  const engine::Scores c = exact.score(ids, -1, 40, true);
  EXPECT_LT(relative_error(b.logits, a.logits), 1e-4);
  EXPECT_LT(relative_error(b.mtp_logits, a.mtp_logits), 1e-4);
  EXPECT_GT(relative_error(a.logits, c.logits), 1e-4) << "they are not used";
  EXPECT_GT(relative_error(a.mtp_logits, c.mtp_logits), 1e-4) << "they are not used";
}

TEST(DeviceModel, RoutesAreCountedAndNotReadBack) {
  TestModel device(conformance("conf-fp8"), "fake:reference", 64, 1);
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  const int64_t downloads = device.fake->memory().downloads;
  (void)device.score(ids, 1, 40, false);
  EXPECT_EQ(device.fake->memory().downloads - downloads, 2) << "logits and hidden states";
  const offload::ExpertCounters& counters = device.model->experts().counters();
  const auto& config = device.model->config();
  EXPECT_EQ(counters.routes,
            40 * config.experts_per_token * (config.num_layers - config.first_k_dense));
  EXPECT_EQ(counters.routes_on_device, counters.routes);
  EXPECT_EQ(counters.routed_experts, counters.computed_on_cpu);
}

// Small steps compute it as one expert more, larger ones by products of its own.
TEST(DeviceModel, TheSharedExpertJoinsTheRoutedOnesInSmallSteps) {
  constexpr int64_t kMost = offload::ExpertStore::kMostJoined;
  TestModel device(conformance("conf-fp8"), "fake:reference", kMost + 1, 1);
  const offload::ExpertStore& store = device.model->experts();
  EXPECT_TRUE(store.joins(1));
  EXPECT_TRUE(store.joins(kMost));
  EXPECT_FALSE(store.joins(kMost + 1));
  const auto& config = device.model->config();
  std::vector<int32_t> ids;
  for (int64_t i = 0; i <= kMost; ++i) ids.push_back(static_cast<int32_t>(i % config.vocab_size));
  const auto products = [&](int64_t chunk) {
    device.fake->calls.clear();
    (void)device.score(std::span(ids).first(static_cast<size_t>(chunk)), 1, chunk, false);
    return std::pair(device.fake->calls["linear"], device.fake->calls["experts"]);
  };
  const auto [joined, experts] = products(kMost);
  const auto [alone, experts_alone] = products(kMost + 1);
  const int64_t layers = config.num_layers - config.first_k_dense;
  EXPECT_EQ(experts, layers);
  EXPECT_EQ(experts_alone, layers);
  EXPECT_EQ(alone - joined, 3 * layers) << "gate, up and down";
}

TEST(DeviceModel, TheSharedExpertStaysAloneWhereExpertsAreNotAllOnTheDevice) {
  TestModel host(conformance("conf-fp8"), "reference", 64, 1);
  EXPECT_FALSE(host.model->experts().joins(1));
  offload::StoreOptions none;
  none.budget_bytes = 0;
  TestModel offloaded(conformance("conf-fp8"), "fake:reference", 64, 1, 4, none,
                      /*with_cpu=*/true);
  EXPECT_FALSE(offloaded.model->experts().joins(1));
}

TEST(DeviceModel, TakesWhatThePlanSaysAndRefusesLess) {
  ThreadPool pool(1);
  auto checkpoint = Checkpoint::open(conformance("conf-fp8"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const model::StepLimits limits{.tokens = 64, .sequences = 4, .context = 128};
  FakeDevice device(kernels::make_reference_backend(pool));
  const auto plan = model::plan_memory(*checkpoint, device, limits, /*with_mtp=*/true);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(device.memory().live_bytes(), 0) << "planning takes nothing";
  const auto main = model::Model::create(*checkpoint, device, limits);
  ASSERT_TRUE(main) << main.error().message;
  const auto mtp = model::Mtp::create(*checkpoint, *main, device, limits);
  ASSERT_TRUE(mtp) << mtp.error().message;
  EXPECT_EQ(device.memory().live_bytes(), plan->weights + plan->experts + plan->activations);

  FakeDevice small(kernels::make_reference_backend(pool), plan->total() / 4096 * 4096);
  EXPECT_TRUE(model::check_memory({.weights = small.memory().available()}, small.memory()));
  const auto refused =
      model::check_memory({.weights = small.memory().available() + 1}, small.memory());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kMemory);
  EXPECT_THAT(refused.error().message, HasSubstr("GB are free"));
}

TEST(DeviceModel, ThePlanCountsTheStepsThatWillBeCaptured) {
  ThreadPool pool(1);
  auto checkpoint = Checkpoint::open(conformance("conf-fp8"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  FakeDevice device(kernels::make_reference_backend(pool));
  model::StepLimits limits{.tokens = 64, .sequences = 4, .context = 128};
  const auto graphs = [&](bool with_mtp, bool on) {
    const auto plan = model::plan_memory(*checkpoint, device, limits, with_mtp, {}, 0, {.on = on});
    return plan ? plan->graphs : -1;
  };
  EXPECT_EQ(graphs(false, false), 0);
  const int64_t plain = graphs(false, true);
  EXPECT_GT(plain, 0);
  EXPECT_EQ(graphs(true, true), plain) << "without guesses the draft's steps are not captured";
  limits.drafts = 3;
  EXPECT_GT(graphs(true, true), graphs(false, true));
  EXPECT_GT(graphs(false, true), plain) << "checks have more rows";
}

TEST(DeviceModel, AFaultIsAnErrorWithTheDevicesMessage) {
  TestModel device(conformance("conf-bf16"), "fake:reference", 64, 1);
  const std::vector<int32_t> ids = golden_ids("conf-bf16");
  device.fake->fail_at(20);
  Recorder recorder(40, true);
  const CancelToken cancel;
  const auto scores = engine::score(*device.model, device.layout,
                                    {.ids = ids, .chunk = 40, .observer = &recorder}, cancel);
  ASSERT_FALSE(scores);
  EXPECT_EQ(scores.error().kind, ErrorKind::kDevice);
  EXPECT_THAT(scores.error().message, HasSubstr("told to fail"));
}

}  // namespace
}  // namespace longshore
