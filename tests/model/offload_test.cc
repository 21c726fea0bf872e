// A model whose device holds none, some or all of the experts gives what it gives when all of them
// are in one place.
#include <cmath>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/kv_pool.h"
#include "model/memory_plan.h"
#include "tests/model/budget.h"
#include "tests/model/golden.h"

namespace longshore {
namespace {

using offload::ExpertCounters;
using offload::StoreOptions;
using testing::HasSubstr;

std::string conformance(const std::string& name) {
  return data_path("conformance/" + name);
}

std::vector<int32_t> golden_ids(const std::string& name) {
  return GoldenFile(data_path("goldens/" + name + "/golden.safetensors")).ints("input_ids");
}

// Sums of experts in another order: fp32 rounding, and what that does to later layers.
constexpr double kTolerance = 2e-5;

offload::Costs::Start even_costs() {
  offload::Costs::Start costs;
  costs.wire_bytes_per_second = 1e10;
  costs.cpu_seconds_one_token = 1e-6;
  costs.cpu_seconds_per_token = 1e-7;
  return costs;
}

// share: of all experts that the slots hold.
StoreOptions options_for(const std::string& dir, double share) {
  StoreOptions options;
  options.budget_bytes = budget_for(dir, share);
  options.ring = 4;
  options.costs = even_costs();
  return options;
}

void expect_conserved(const model::Model& model) {
  const offload::ExpertStore& store = model.experts();
  const ExpertCounters& c = store.counters();
  EXPECT_EQ(c.routed_experts, c.hits + c.fetched + c.computed_on_cpu + c.shared);
  if (store.device() != nullptr) store.device()->slots().check_conservation(/*idle=*/true);
}

struct Setting {
  double share;
  double forced_fetch;    // negative: costs decide
  int64_t decode_tokens;  // steps with more stream
  bool with_cpu;
};

void PrintTo(const Setting& s, std::ostream* out) {
  *out << s.share << " resident, fetch " << s.forced_fetch << ", stream over " << s.decode_tokens
       << (s.with_cpu ? ", CPU" : "");
}

class Offloaded : public testing::TestWithParam<std::tuple<const char*, Setting>> {};

TEST_P(Offloaded, GivesTheResidentModelsNumbers) {
  const auto& [name, setting] = GetParam();
  const std::string dir = conformance(name);
  const std::vector<int32_t> ids = golden_ids(name);
  TestModel host(dir, "reference", 64, 1);
  StoreOptions options = options_for(dir, setting.share);
  options.forced_fetch = setting.forced_fetch;
  options.decode_tokens = setting.decode_tokens;
  TestModel device(dir, "fake:reference", 64, 1, 4, options, setting.with_cpu);
  for (const int64_t chunk : {int64_t{1}, int64_t{3}, int64_t{16}}) {
    const engine::Scores expected = host.score(ids, -1, chunk, true);
    const int64_t uploads = device.fake->memory().uploads;
    const engine::Scores actual = device.score(ids, -1, chunk, true);
    EXPECT_LE(relative_error(actual.logits, expected.logits), kTolerance) << chunk;
    EXPECT_LE(relative_error(actual.hidden, expected.hidden), kTolerance) << chunk;
    EXPECT_LE(relative_error(actual.mtp_logits, expected.mtp_logits), kTolerance) << chunk;
    EXPECT_EQ(device.fake->memory().uploads, uploads) << "only the wire moves weights";
    expect_conserved(*device.model);
  }
  const ExpertCounters& c = device.model->experts().counters();
  EXPECT_EQ(
      c.routes,
      3 * static_cast<int64_t>(ids.size()) * device.checkpoint->config().experts_per_token *
          (device.checkpoint->config().num_layers - device.checkpoint->config().first_k_dense));
  if (setting.share == 0) {
    EXPECT_EQ(c.hits - c.prefetched + c.prefetched_unused, 0);
  }
  if (!setting.with_cpu) {
    EXPECT_EQ(c.computed_on_cpu, 0);
  }
  if (setting.forced_fetch == 0 && setting.decode_tokens >= 16) {
    EXPECT_EQ(c.fetched, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Offloaded,
    testing::Combine(testing::Values("conf-bf16", "conf-fp8"),
                     testing::Values(Setting{0, 1, 64, false}, Setting{0, 0, 64, true},
                                     Setting{0.5, -1, 64, true}, Setting{0.5, 0.5, 64, true},
                                     Setting{0.3, -1, 2, true}, Setting{0, -1, 2, true},
                                     Setting{0.9, -1, 0, false}, Setting{0.02, 0.7, 8, true})),
    [](const auto& info) {
      std::string name = std::get<0>(info.param);
      std::replace(name.begin(), name.end(), '-', '_');
      return name + "_" + std::to_string(info.index);
    });

TEST(OffloadedModel, EverythingResidentIsALargeBudget) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel host(dir, "reference", 64, 1);
  TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 1));
  EXPECT_EQ(device.model->experts().device(), nullptr);
  EXPECT_EQ(device.score(ids, -1, 7, false).logits, host.score(ids, -1, 7, false).logits);
  EXPECT_EQ(device.fake->transfers()->copies, 0);
}

TEST(OffloadedModel, ARepeatedStepFindsItsExpertsInTheSlots) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 0.99));
  const std::vector<int32_t> few(ids.begin(), ids.begin() + 2);
  (void)device.score(few, -1, 1, false);
  const ExpertCounters before = device.model->experts().counters();
  (void)device.score(few, -1, 1, false);
  const ExpertCounters& after = device.model->experts().counters();
  EXPECT_GT(before.fetched, 0);
  EXPECT_EQ(after.fetched, before.fetched);
  EXPECT_EQ(after.hits - before.hits, after.routed_experts - before.routed_experts);
}

TEST(OffloadedModel, APrefillLeavesTheSlotsAsTheyAre) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  StoreOptions options = options_for(dir, 0.3);
  options.decode_tokens = 2;
  TestModel device(dir, "fake:reference", 64, 1, 4, options);
  (void)device.score(ids, -1, 1, false);
  offload::StoreReport before;
  device.model->experts().report(before);
  (void)device.score(ids, -1, 16, false);
  offload::StoreReport after;
  device.model->experts().report(after);
  EXPECT_EQ(before.resident, after.resident);
  EXPECT_GT(after.counters.prefetched, 0);
}

TEST(OffloadedModel, EveryRouteIsAUseOfItsExpertAndTheMeasuredRatesAreCeilings) {
  const std::string dir = conformance("conf-fp8");
  TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 0.3), true);
  (void)device.score(golden_ids("conf-fp8"), -1, 5, false);
  offload::StoreReport report;
  device.model->experts().report(report);
  EXPECT_EQ(report.uses.size(), report.resident.size());
  EXPECT_GT(report.counters.routes, 0);
  EXPECT_EQ(std::accumulate(report.uses.begin(), report.uses.end(), int64_t{0}),
            report.counters.routes);
  EXPECT_DOUBLE_EQ(report.wire_ceiling, even_costs().wire_bytes_per_second);
  EXPECT_DOUBLE_EQ(report.cpu_ceiling, static_cast<double>(device.model->experts().expert_bytes()) /
                                           even_costs().cpu_seconds_one_token);
}

TEST(OffloadedModel, AFailingCopyIsTheStepsError) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  for (const int64_t step : {1, 2, 7}) {
    TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 0.3), true);
    device.fake->transfers()->fail_copy_at = device.fake->transfers()->copies + step;
    const CancelToken cancel;
    const auto scores =
        engine::score(*device.model, device.layout, {.ids = ids, .chunk = 5}, cancel);
    ASSERT_FALSE(scores) << step;
    EXPECT_EQ(scores.error().kind, ErrorKind::kDevice);
    EXPECT_THAT(scores.error().message, HasSubstr("a copy on the fake device"));
    expect_conserved(*device.model);
  }
}

// Cancels after some asks.
class Impatient : public model::Observer {
 public:
  Impatient(CancelToken& token, int64_t layer) : token_(token), layer_(layer) {}
  void on_hidden(int64_t layer, ConstMatrixView) override {
    if (layer == layer_) token_.cancel();
  }

 private:
  CancelToken& token_;
  int64_t layer_;
};

TEST(OffloadedModel, ACancelledStepLeavesNothingPinnedAndCanBeMadeAgain) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel host(dir, "reference", 64, 1);
  TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 0.3), true);
  for (int64_t layer = 0; layer + 1 < device.checkpoint->config().num_layers; ++layer) {
    CancelToken cancel;
    Impatient observer(cancel, layer);
    const auto scores = engine::score(*device.model, device.layout,
                                      {.ids = ids, .chunk = 5, .observer = &observer}, cancel);
    ASSERT_FALSE(scores);
    EXPECT_EQ(scores.error().kind, ErrorKind::kCancelled);
    expect_conserved(*device.model);
  }
  EXPECT_LE(
      relative_error(device.score(ids, -1, 5, false).logits, host.score(ids, -1, 5, false).logits),
      kTolerance);
}

TEST(OffloadedModel, ABudgetThatChangesBetweenStepsChangesNoOutput) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel host(dir, "reference", 64, 1);
  const std::vector<float> expected = host.score(ids, -1, 1, false).logits;
  TestModel device(dir, "fake:reference", 64, 1, 4, options_for(dir, 0.6), true);
  offload::ExpertStore& store = device.model->experts();
  const int64_t block = offload::DeviceBank::block_bytes(store.experts());
  const int64_t slots = store.slots();
  ASSERT_GE(slots, 3);
  for (const int64_t limit : {slots, int64_t{1}, int64_t{0}, slots / 2, slots}) {
    const auto set = store.limit_slots(limit * block);
    ASSERT_TRUE(set) << set.error().message;
    EXPECT_EQ(*set, limit);
    EXPECT_LE(relative_error(device.score(ids, -1, 1, false).logits, expected), kTolerance);
    EXPECT_LE(store.device()->slots().counts().resident, limit);
    expect_conserved(*device.model);
  }
  EXPECT_EQ(store.device()->slots().counts().resident, slots) << "all are used again";
  const auto more = store.limit_slots((slots + 1) * block);
  ASSERT_FALSE(more);
  EXPECT_THAT(more.error().message, HasSubstr("taken at start"));
  EXPECT_FALSE(host.model->experts().limit_slots(0)) << "no device";
}

TEST(OffloadedModel, ADryRunTakesTheMemoryAndCopiesNoExpert) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  for (const double share : {0.0, 0.5, 1.0}) {
    StoreOptions options = options_for(dir, share);
    TestModel real(dir, "fake:reference", 64, 1, 4, options);
    options.meta = true;
    TestModel dry(dir, "fake:reference", 64, 1, 4, options);
    EXPECT_EQ(dry.model->experts().pool_bytes(), real.model->experts().pool_bytes()) << share;
    const auto scores = dry.score(ids, -1, 5, false);
    EXPECT_EQ(scores.logits.size(), real.score(ids, -1, 5, false).logits.size());
    EXPECT_EQ(dry.fake->transfers()->copies, 0);
    EXPECT_GT(dry.model->experts().counters().routes, 0);
    EXPECT_EQ(dry.model->experts().counters().hits, 0);
  }
}

TEST(OffloadedModel, TheRingTakesASixteenthOfTheDeviceAtMostButKeepsAQuarterOfItsBlocks) {
  constexpr int64_t kBlock = 37748736;
  EXPECT_EQ(offload::ring_for(80'000'000'000, kBlock), 128);
  EXPECT_EQ(offload::ring_for(32'000'000'000, kBlock), 52);
  EXPECT_EQ(offload::ring_for(8'000'000'000, kBlock), 32);
}

TEST(OffloadedModel, WithoutAWireItIsRefusedByName) {
  const std::string dir = conformance("conf-fp8");
  ThreadPool pool(1);
  auto checkpoint = Checkpoint::open(dir);
  ASSERT_TRUE(checkpoint);
  FakeDevice device(kernels::make_reference_backend(pool));
  device.has_wire = false;
  const auto model = model::Model::create(*checkpoint, device, {.tokens = 8, .sequences = 1},
                                          options_for(dir, 0.5));
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().kind, ErrorKind::kDevice);
  EXPECT_THAT(model.error().message, HasSubstr("fake cannot hold all experts"));
}

// What the target's pipeline shows of itself.
struct Pipeline {
  ExpertCounters counters;
  std::vector<uint8_t> resident;
};

Pipeline pipeline(const model::Model& model) {
  offload::StoreReport report;
  model.experts().report(report);
  return {report.counters, report.resident};
}

void expect_untouched(const Pipeline& before, const Pipeline& after) {
  EXPECT_EQ(before.resident, after.resident);
  EXPECT_EQ(before.counters.routed_experts, after.counters.routed_experts);
  EXPECT_EQ(before.counters.fetched, after.counters.fetched);
  EXPECT_EQ(before.counters.prefetched, after.counters.prefetched);
  EXPECT_EQ(before.counters.wire_bytes, after.counters.wire_bytes);
}

class Draft : public testing::Test {
 protected:
  Draft() : target(dir, "fake:reference", 64, 1, 4, options(), true) {}
  static StoreOptions options() { return options_for(conformance("conf-fp8"), 0.3); }

  std::unique_ptr<model::Mtp> make_draft(StoreOptions offload) {
    offload.cpu = target.cpu.get();
    const model::StepLimits limits{.tokens = 64, .sequences = 4};
    auto made =
        model::Mtp::create(*target.checkpoint, *target.model, *target.backend, limits, offload);
    LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
    return std::make_unique<model::Mtp>(std::move(*made));
  }
  // The target's and the draft's answers, step by step.
  engine::Scores draft_with(model::Mtp& draft) {
    const CancelToken cancel;
    auto scores = engine::score(*target.model, target.layout,
                                {.ids = ids, .last = -1, .chunk = 5, .mtp = &draft}, cancel);
    LS_CHECK_MSG(scores.has_value(), "{}", scores.error().message);
    return std::move(*scores);
  }

  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel target;
};

TEST_F(Draft, CreationAndDestructionDoNotTouchTheTarget) {
  (void)target.score(ids, -1, 5, false);
  const Pipeline before = pipeline(*target.model);
  auto first = make_draft(options());
  expect_untouched(before, pipeline(*target.model));
  auto second = make_draft(StoreOptions{});  // all of its experts resident
  expect_untouched(before, pipeline(*target.model));
  first.reset();
  expect_untouched(before, pipeline(*target.model));
  second.reset();
  expect_untouched(before, pipeline(*target.model));
}

TEST_F(Draft, ADraftBeforeTheTargetsFirstStepChangesNothing) {
  TestModel alone(dir, "fake:reference", 64, 1, 4, options(), true);
  const engine::Scores expected = alone.score(ids, -1, 5, false);
  const auto draft = make_draft(options());
  EXPECT_EQ(target.score(ids, -1, 5, false).logits, expected.logits);
  expect_untouched(pipeline(*alone.model), pipeline(*target.model));
}

TEST_F(Draft, TargetAndDraftsTakeTurns) {
  TestModel host(dir, "reference", 64, 1);
  const engine::Scores expected = host.score(ids, -1, 5, true);
  const auto offloaded = make_draft(options());
  const auto resident = make_draft(StoreOptions{});
  for (model::Mtp* draft : {offloaded.get(), resident.get(), offloaded.get()}) {
    const engine::Scores actual = draft_with(*draft);
    EXPECT_LE(relative_error(actual.logits, expected.logits), kTolerance);
    EXPECT_LE(relative_error(actual.mtp_logits, expected.mtp_logits), kTolerance);
    expect_conserved(*target.model);
  }
}

TEST_F(Draft, DestroyedInMidFlightLeavesTheTargetRight) {
  TestModel host(dir, "reference", 64, 1);
  auto draft = make_draft(options());
  const std::vector<int32_t> half(ids.begin(), ids.begin() + static_cast<long>(ids.size() / 2));
  const CancelToken cancel;
  ASSERT_TRUE(engine::score(*target.model, target.layout,
                            {.ids = half, .last = 1, .chunk = 3, .mtp = draft.get()}, cancel));
  draft.reset();
  EXPECT_LE(
      relative_error(target.score(ids, -1, 5, false).logits, host.score(ids, -1, 5, false).logits),
      kTolerance);
}

struct Groups {
  int64_t size, num, step;
};

TEST(GroupedModel, GivesTheResidentModelsNumbersForEveryGrouping) {
  for (const std::string name : {"conf-bf16", "conf-fp8"}) {
    const std::string dir = conformance(name);
    const std::vector<int32_t> ids = golden_ids(name);
    TestModel host(dir, "reference", 64, 1);
    const engine::Scores expected = host.score(ids, -1, 7, true);
    for (const Groups& g : {Groups{1, 1, 1}, Groups{1, 1, 2}, Groups{2, 1, 1}, Groups{2, 2, 2},
                            Groups{3, 2, 1}, Groups{3, 1, 9}, Groups{9, 1, 1}}) {
      StoreOptions options;
      options.group = {g.size, g.num, g.step};
      TestModel device(dir, "fake:reference", 64, 1, 4, options);
      const int64_t uploads = device.fake->memory().uploads;
      for (int round = 0; round < 2; ++round) {
        const engine::Scores actual = device.score(ids, -1, 7, true);
        EXPECT_EQ(actual.logits, expected.logits) << g.size << " " << g.num << " " << g.step;
        EXPECT_EQ(actual.mtp_logits, expected.mtp_logits);
      }
      EXPECT_EQ(device.fake->memory().uploads, uploads);
    }
  }
}

TEST(GroupedModel, FinishingALayerLoadsTheOneAfter) {
  const std::string dir = conformance("conf-fp8");
  StoreOptions options;
  options.group = {1, 1, 1};
  TestModel device(dir, "fake:reference", 64, 1, 4, options);
  const auto& config = device.checkpoint->config();
  const int64_t layers = config.num_layers - config.first_k_dense;
  ASSERT_GT(layers, 1);
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  offload::StoreReport before;
  device.model->experts().report(before);
  EXPECT_EQ(before.counters.prefetched, config.num_experts) << "the first at start";
  (void)device.score(ids, 1, 64, false);
  offload::StoreReport after;
  device.model->experts().report(after);
  EXPECT_EQ(after.counters.prefetched, (1 + layers) * config.num_experts) << "and round again";
}

TEST(GroupedModel, ACancelledStepCanBeMadeAgain) {
  const std::string dir = conformance("conf-fp8");
  const std::vector<int32_t> ids = golden_ids("conf-fp8");
  TestModel host(dir, "reference", 64, 1);
  const std::vector<float> expected = host.score(ids, -1, 5, false).logits;
  for (const Groups& g : {Groups{1, 1, 1}, Groups{1, 1, 2}, Groups{1, 1, 3}, Groups{2, 1, 1}}) {
    StoreOptions options;
    options.group = {g.size, g.num, g.step};
    TestModel device(dir, "fake:reference", 64, 1, 4, options);
    for (int64_t layer = 0; layer + 1 < device.checkpoint->config().num_layers; ++layer) {
      CancelToken cancel;
      Impatient observer(cancel, layer);
      const auto scores = engine::score(*device.model, device.layout,
                                        {.ids = ids, .chunk = 5, .observer = &observer}, cancel);
      ASSERT_FALSE(scores);
      EXPECT_EQ(scores.error().kind, ErrorKind::kCancelled);
      EXPECT_EQ(device.score(ids, -1, 5, false).logits, expected) << g.step << " at " << layer;
    }
  }
}

TEST(MemoryPlan, IsWhatIsTakenAtEveryBudget) {
  for (const std::string name : {"conf-fp8", "conf-bf16"}) {
    const std::string dir = conformance(name);
    auto checkpoint = Checkpoint::open(dir);
    ASSERT_TRUE(checkpoint);
    ThreadPool pool(1);
    const model::StepLimits limits{.tokens = 64, .sequences = 4, .context = 128};
    // With fewer decode tokens than a step may have, prompts' passes pause for steps beside them.
    for (const auto& [share, decode_tokens] :
         {std::pair{0.0, 64}, {0.1, 64}, {0.5, 16}, {0.5, 0}, {0.9, 8}, {1.0, 16}}) {
      StoreOptions options = options_for(dir, share);
      options.decode_tokens = decode_tokens;
      const std::optional<DType> latents =
          share == 0.5 ? std::optional(DType::kF8E4M3) : std::nullopt;
      FakeDevice device(kernels::make_reference_backend(pool));
      const auto plan = model::plan_memory(*checkpoint, device, limits, /*with_mtp=*/true, options,
                                           640, {.on = false}, latents);
      ASSERT_TRUE(plan) << plan.error().message;
      auto main = model::Model::create(
          *checkpoint, device, limits,
          model::target_options(options, checkpoint->config(), /*with_mtp=*/true));
      ASSERT_TRUE(main) << main.error().message;
      const auto mtp = model::Mtp::create(*checkpoint, *main, device, limits,
                                          model::draft_options(options, checkpoint->config()));
      ASSERT_TRUE(mtp) << mtp.error().message;
      const auto cache = engine::KvPool::create(
          model::KvLayout::of(checkpoint->config(), device, /*with_mtp=*/true, latents), 10);
      ASSERT_TRUE(cache) << cache.error().message;
      EXPECT_EQ(device.memory().live_bytes(), plan->total()) << name << ", " << share;
    }
  }
}

TEST(MemoryPlan, ABudgetIsSharedBetweenTargetAndDraft) {
  auto checkpoint = Checkpoint::open(conformance("conf-fp8"));
  ASSERT_TRUE(checkpoint);
  ThreadPool pool(1);
  FakeDevice device(kernels::make_reference_backend(pool));
  const model::StepLimits limits{.tokens = 64, .sequences = 4, .context = 128};
  const auto plan = [&](int64_t budget) {
    auto made = model::plan_memory(*checkpoint, device, limits, /*with_mtp=*/true,
                                   {.budget_bytes = budget});
    LS_CHECK(made.has_value());
    return made->experts;
  };
  const int64_t none = plan(0);
  for (const int64_t budget : {100000, 500000, 2000000})
    EXPECT_LE(plan(budget) - none, budget) << budget;
  const auto small = model::plan_memory(*checkpoint, device, limits, false);
  const auto large = model::plan_memory(*checkpoint, device, limits, false, {}, 6400);
  ASSERT_TRUE(small && large);
  EXPECT_EQ(large->cache, small->cache * 50) << "100 pages for 2";
}

TEST(GroupedModel, RefusesBadGroupsByFlag) {
  EXPECT_THAT(offload::GroupOptions({0, 1, 1}).validate().error().message,
              HasSubstr("--offload-group-size"));
  EXPECT_THAT(offload::GroupOptions({2, 3, 1}).validate().error().message,
              HasSubstr("--offload-num-in-group"));
  EXPECT_THAT(offload::GroupOptions({2, 0, 1}).validate().error().message,
              HasSubstr("--offload-num-in-group"));
  EXPECT_THAT(offload::GroupOptions({2, 1, 0}).validate().error().message,
              HasSubstr("--offload-prefetch-step"));
}

// The bundled model: greedy answers token for token.
TEST(OffloadedNano, GreedyAnswersAreTheResidentModels) {
  const std::vector<int32_t> ids =
      GoldenFile(data_path("goldens/glm-nano/chat.safetensors")).ints("input_ids");
  TestModel host(nano_path(), "generic", 128, 2);
  StoreOptions options = options_for(nano_path(), 0.25);
  options.decode_tokens = 16;
  TestModel device(nano_path(), "fake:generic", 128, 2, 4, options, true);
  const engine::Scores expected = host.score(ids, -1, 64, false);
  const engine::Scores actual = device.score(ids, -1, 64, false);
  const auto vocab = static_cast<size_t>(host.checkpoint->config().vocab_size);
  size_t equal = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    const auto best = [&](const std::vector<float>& logits) {
      const auto row = logits.begin() + static_cast<long>(t * vocab);
      return std::max_element(row, row + static_cast<long>(vocab)) - row;
    };
    equal += best(expected.logits) == best(actual.logits) ? 1 : 0;
  }
  EXPECT_GE(static_cast<double>(equal), 0.99 * static_cast<double>(ids.size()));
}

}  // namespace
}  // namespace longshore
