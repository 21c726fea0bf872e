// Prompts whose experts stream are read in passes that pause in their layers for those who decode:
// every token is the one that comes without pauses, and whatever ends a pass ends it whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/streaming.h"

namespace longshore::engine {
namespace {

using testing::HasSubstr;

const std::string kSmall = data_path("conformance/conf-bf16");

EngineOptions options(double share) {
  return {.context_length = 256,
          .max_running = 4,
          .prefill_budget = 128,
          .pages = 16,
          .beside_share = share};
}

int64_t moe_layers(const TestModel& test) {
  const GlmConfig& config = test.model->config();
  return config.num_layers - config.first_k_dense;
}

// One request decodes, then a long prompt comes.
struct Meeting {
  // host_sum: as set_times'. A step of 10 ms a layer fits in a pause.
  Meeting(TestModel& test, const EngineOptions& chosen, int64_t prompts = 1,
          double host_sum = 10e-3)
      : model(test), engine(make_engine(test, chosen)) {
    set_times(test, host_sum);
    const auto captured = test.model->capture_steps(engine->caches(), {});
    LS_CHECK(captured.has_value() && engine->capture_drafts({}).has_value());
    LS_CHECK(engine->submit(greedy(prompt_of(5, vocab()), 60), record(decoding)).has_value());
    while (decoding.ids.size() < 2) engine->step();
    for (int64_t i = 0; i < prompts; ++i) {
      const auto salt = static_cast<int32_t>(2 + i);
      ids.push_back(
          *engine->submit(greedy(prompt_of(100 / prompts, vocab(), salt), 6), record(prompt[i])));
    }
  }
  [[nodiscard]] int32_t vocab() const {
    return static_cast<int32_t>(model.model->config().vocab_size);
  }
  // Until the pass has gone on by so many pauses.
  void enter(int64_t pauses) {
    while (!model.model->in_pass()) engine->step();
    for (int64_t i = 0; i < pauses; ++i) engine->step();
    LS_CHECK(model.model->in_pass());
  }
  void finish() {
    int steps = 0;
    while (engine->step()) {
      engine->check_conservation();
      LS_CHECK(++steps < 500);
    }
  }

  TestModel& model;
  std::unique_ptr<Engine> engine;
  Generated decoding;
  Generated prompt[2];
  std::vector<RequestId> ids;
};

std::vector<int32_t> alone(const std::vector<int32_t>& prompt, int64_t tokens) {
  static TestModel host(kSmall, "reference", 160, 1);
  return run(*make_engine(host, options(-1)), greedy(prompt, tokens)).ids;
}

void expect_tokens(const Meeting& meeting, int64_t prompts = 1) {
  EXPECT_EQ(meeting.decoding.ids, alone(prompt_of(5, meeting.vocab()), 60));
  for (int64_t i = 0; i < prompts; ++i) {
    const auto salt = static_cast<int32_t>(2 + i);
    EXPECT_EQ(meeting.prompt[i].ids, alone(prompt_of(100 / prompts, meeting.vocab(), salt), 6));
  }
}

TEST(PausingPasses, WhoDecodesGetsATokenInEveryLayerWhoseExpertsStream) {
  for (const double share : {0.0, 0.4}) {
    TestModel model = streaming_model(kSmall, share);
    Meeting meeting(model, options(kAfterEveryLayer));
    const auto before = static_cast<int64_t>(meeting.decoding.ids.size());
    while (meeting.prompt[0].ids.empty()) {
      meeting.engine->step();
      const StepReport& report = meeting.engine->last_step();
      EXPECT_LE(report.passes, 1);
      EXPECT_EQ(report.beside_seconds > 0, report.decode_tokens > 0 && model.model->in_pass());
    }
    const auto got = static_cast<int64_t>(meeting.decoding.ids.size()) - before;
    // With some experts in slots a layer may have no pause: all the others came ahead.
    EXPECT_GE(got, moe_layers(model) - (share == 0 ? 0 : 1));
    EXPECT_EQ(meeting.engine->counters().paused_passes, 1);
    EXPECT_EQ(meeting.engine->counters().beside_steps, got);
    meeting.finish();
    expect_tokens(meeting);
  }
}

TEST(PausingPasses, NobodyPausesWhereItIsNotWantedOrGainsNothing) {
  const auto passes = [](TestModel model, double share) {
    Meeting meeting(model, options(share));
    meeting.finish();
    expect_tokens(meeting);
    return meeting.engine->counters().paused_passes;
  };
  EXPECT_EQ(passes(streaming_model(kSmall, 0.3), kAfterEveryLayer), 1);
  EXPECT_EQ(passes(streaming_model(kSmall, 0.3), -1), 0) << "switched off";
  EXPECT_EQ(passes(streaming_model(kSmall, 1), kAfterEveryLayer), 0) << "nothing streams";
  EXPECT_EQ(passes(streaming_model(kSmall, 0.3, -1, /*with_cpu=*/false), kAfterEveryLayer), 0)
      << "the wire would have to bring what the others miss";
}

// Whether a step fits in a pause or lasts longer than a layer's copies.
TEST(PausingPasses, StepsInThemLeaveTheWireBusy) {
  for (const double host_sum : {0.0, 10e-3, 25e-3, 35e-3}) {
    TestModel model = streaming_model(kSmall, 0);
    const offload::ExpertStore& store = model.model->experts();
    Meeting meeting(model, options(kAfterEveryLayer), /*prompts=*/1, host_sum);
    int64_t layers = 0;
    const auto step = [&] {
      meeting.engine->step();
      layers += meeting.engine->last_step().pass_layers;
    };
    const double idle = store.counters().wire_idle_seconds;
    while (meeting.prompt[0].ids.empty()) step();
    EXPECT_NEAR(store.counters().wire_idle_seconds - idle, 0, 1e-3) << host_sum;
    const int64_t steps = meeting.engine->counters().beside_steps;
    EXPECT_TRUE(host_sum > 10e-3 ? steps >= 1 : steps == moe_layers(model))
        << host_sum << ": " << steps;
    EXPECT_EQ(layers, model.model->config().num_layers);
    meeting.finish();
    expect_tokens(meeting);
  }
}

// A share of nothing: only what the copies ahead cover, which at these costs is little.
TEST(PausingPasses, AStepThatWouldHoldTheWireUpWaits) {
  TestModel model = streaming_model(kSmall, 0);
  Meeting meeting(model, options(0));
  const auto before = meeting.decoding.ids.size();
  while (meeting.prompt[0].ids.empty()) meeting.engine->step();
  EXPECT_LE(meeting.decoding.ids.size() - before, 2U) << "at the begin, where it is measured";
  meeting.finish();
  expect_tokens(meeting);
}

// Decode steps leave their hidden states beside those of a pass, and both are drafted from.
TEST(PausingPasses, CapturedDraftsGoOnFromStepsBesideThem) {
  TestModel model = streaming_model(kSmall, 0.4);
  EngineOptions chosen = options(kAfterEveryLayer);
  chosen.speculation = {.mtp = model.mtp.get(), .max_steps = 1, .always = true};
  Meeting meeting(model, chosen);
  int64_t beside = 0;
  while (meeting.prompt[0].ids.empty()) {
    const int64_t replayed = model.mtp->replayed_steps();
    meeting.engine->step();
    if (model.model->in_pass()) beside += model.mtp->replayed_steps() - replayed;
  }
  EXPECT_GT(beside, 2) << "captured drafts in the pauses";
  meeting.finish();
  expect_tokens(meeting);
}

TEST(PausingPasses, TheWireIsTheStreams) {
  TestModel model = streaming_model(kSmall, 0, /*forced_fetch=*/1);
  Meeting meeting(model, options(kAfterEveryLayer));
  meeting.enter(0);
  const auto& counters = model.model->experts().counters();
  for (int i = 0; i < 2; ++i) {
    const offload::ExpertCounters before = counters;
    const int64_t steps = meeting.engine->counters().beside_steps;
    // By hand: a step of those who decode alone, in a pause.
    ASSERT_TRUE(model.model->in_pass());
    meeting.engine->step();
    ASSERT_EQ(meeting.engine->counters().beside_steps, steps + 1);
    EXPECT_GT((counters - before).computed_on_cpu, 0) << "although told to fetch everything";
  }
  meeting.finish();
  expect_tokens(meeting);
}

TEST(PausingPasses, ACancelledPromptEndsItsPassAtTheNextLayer) {
  TestModel model = streaming_model(kSmall, 0.3);
  for (int64_t pauses = 0; pauses < moe_layers(model) - 1; ++pauses) {
    Meeting meeting(model, options(kAfterEveryLayer));
    meeting.enter(pauses);
    meeting.engine->cancel(meeting.ids[0]);
    meeting.engine->step();
    EXPECT_FALSE(model.model->in_pass()) << pauses;
    EXPECT_EQ(meeting.prompt[0].result.reason, FinishReason::kCancelled);
    meeting.engine->check_conservation();
    model.model->experts().device()->slots().check_conservation(/*idle=*/true);
    // The same prompt again: nothing of the broken pass is found.
    Generated again;
    ASSERT_TRUE(
        meeting.engine->submit(greedy(prompt_of(100, meeting.vocab(), 2), 6), record(again)));
    meeting.finish();
    EXPECT_EQ(again.ids, alone(prompt_of(100, meeting.vocab(), 2), 6));
    EXPECT_EQ(meeting.decoding.ids, alone(prompt_of(5, meeting.vocab()), 60));
  }
}

TEST(PausingPasses, OneOfTwoPromptsThatIsCancelledEndsWithThePass) {
  TestModel model = streaming_model(kSmall, 0.3);
  Meeting meeting(model, options(kAfterEveryLayer), 2);
  meeting.enter(1);
  meeting.engine->cancel(meeting.ids[0]);
  meeting.engine->step();
  EXPECT_TRUE(model.model->in_pass()) << "somebody waits for it";
  EXPECT_EQ(meeting.prompt[0].finishes, 0);
  meeting.finish();
  EXPECT_EQ(meeting.prompt[0].result.reason, FinishReason::kCancelled);
  EXPECT_EQ(meeting.prompt[1].ids, alone(prompt_of(50, meeting.vocab(), 3), 6));
  EXPECT_EQ(meeting.decoding.ids, alone(prompt_of(5, meeting.vocab()), 60));
}

TEST(PausingPasses, AnInterruptLeavesThePassWhereItIs) {
  TestModel model = streaming_model(kSmall, 0.3);
  Meeting meeting(model, options(kAfterEveryLayer));
  CancelToken stop;
  meeting.engine->set_interrupt(&stop);
  meeting.enter(1);
  stop.cancel();
  for (int i = 0; i < 3; ++i) meeting.engine->step();
  EXPECT_TRUE(model.model->in_pass());
  EXPECT_EQ(meeting.engine->last_step().passes, 0);
  meeting.engine->cancel(meeting.ids[0]);
  meeting.engine->set_interrupt(nullptr);
  meeting.finish();
  EXPECT_EQ(meeting.decoding.ids, alone(prompt_of(5, meeting.vocab()), 60));
}

TEST(PausingPasses, ABudgetMayChangeInThePauses) {
  TestModel model = streaming_model(kSmall, 0.5);
  offload::ExpertStore& store = model.model->experts();
  const int64_t block = offload::DeviceBank::block_bytes(store.experts());
  for (const int64_t slots : {int64_t{0}, store.slots(), store.slots() / 2}) {
    Meeting meeting(model, options(kAfterEveryLayer));
    meeting.enter(0);
    ASSERT_TRUE(store.limit_slots(slots * block));
    meeting.engine->step();
    ASSERT_TRUE(model.model->in_pass());
    EXPECT_LE(store.device()->slots().counts().resident, slots);
    meeting.finish();
    expect_tokens(meeting);
    store.device()->slots().check_conservation(/*idle=*/true);
  }
}

// The rest of a layer and the first of the next one are in the ring when experts of that one lose
// their slots: they come last, and are computed in groups with others that are there.
TEST(PausingPasses, SlotsMayGoWhileTheNextLayerComesAhead) {
  std::vector<int32_t> ids[2];
  for (const bool pauses : {false, true}) {
    TestModel model = streaming_model(nano_path(), 0.6, /*forced_fetch=*/1, /*with_cpu=*/true,
                                      "fake:reference", /*ring=*/9);
    set_times(model, 10e-3);
    const auto engine = make_engine(model, options(pauses ? kAfterEveryLayer : -1));
    const auto vocab = static_cast<int32_t>(model.model->config().vocab_size);
    Generated decoding[3];
    for (int32_t i = 0; i < 3; ++i)
      ASSERT_TRUE(engine->submit(greedy(prompt_of(5, vocab, i), 100), record(decoding[i])));
    while (decoding[2].ids.size() < 60) engine->step();
    offload::ExpertStore& store = model.model->experts();
    const int64_t before = store.counters().prefetched;
    Generated prompt;
    ASSERT_TRUE(engine->submit(greedy(prompt_of(100, vocab, 7), 6), record(prompt)));
    engine->step();
    EXPECT_EQ(model.model->in_pass(), pauses);
    if (pauses) {
      EXPECT_GT(store.counters().prefetched - before, 8) << "of the next layer too";
    }
    ASSERT_TRUE(store.limit_slots(0));
    while (engine->step()) engine->check_conservation();
    ids[pauses ? 1 : 0] = prompt.ids;
  }
  EXPECT_EQ(ids[0], ids[1]);
}

TEST(PausingPasses, AFaultAnywhereInThemEndsEverybodyWithItsError) {
  for (int64_t at = 1; at < 400; at += 23) {
    TestModel model = streaming_model(kSmall, 0.3);
    Meeting meeting(model, options(kAfterEveryLayer));
    meeting.enter(0);
    model.fake->fail_at(at);
    meeting.finish();
    for (const Generated* each : {&meeting.decoding, &meeting.prompt[0]}) {
      EXPECT_EQ(each->finishes, 1);
      EXPECT_EQ(each->result.reason, FinishReason::kFault) << at;
      ASSERT_TRUE(each->result.error);
      EXPECT_THAT(each->result.error->message, HasSubstr("told to fail"));
    }
    EXPECT_FALSE(model.model->in_pass());
    model.model->experts().device()->slots().check_conservation(/*idle=*/true);
  }
}

TEST(PausingPasses, AFailingCopyEndsEverybodyWithItsError) {
  for (const int64_t copy : {1, 5, 20, 60}) {
    TestModel model = streaming_model(kSmall, 0.3);
    Meeting meeting(model, options(kAfterEveryLayer));
    meeting.enter(1);
    model.fake->transfers()->fail_copy_at = model.fake->transfers()->copies + copy;
    meeting.finish();
    EXPECT_EQ(meeting.prompt[0].result.reason, FinishReason::kFault) << copy;
    EXPECT_FALSE(model.model->in_pass());
  }
}

// While a pass pauses the draft's misses are the CPU's, and its wire is its own again however the
// pass ends.
TEST(PausingPasses, TheDraftsWireComesBackHoweverTheyEnd) {
  enum class End : uint8_t { kFinished, kCancelled, kInterrupted, kEngineGone };
  for (const End end : {End::kFinished, End::kCancelled, End::kInterrupted, End::kEngineGone}) {
    // Nothing resident, all fetched where the wire is free.
    TestModel model = streaming_model(kSmall, 0, /*forced_fetch=*/1);
    EngineOptions chosen = options(kAfterEveryLayer);
    chosen.speculation = {.mtp = model.mtp.get(), .max_steps = 1, .always = true};
    CancelToken stop;
    auto meeting = std::make_unique<Meeting>(model, chosen);
    const offload::ExpertCounters& draft = model.mtp->experts().counters();
    meeting->enter(0);
    const offload::ExpertCounters before = draft;
    meeting->enter(1);
    ASSERT_GT(meeting->engine->counters().beside_steps, 0);
    EXPECT_GT((draft - before).computed_on_cpu, 0) << "although told to fetch everything";
    EXPECT_EQ((draft - before).fetched, 0);
    if (end == End::kInterrupted) {
      meeting->engine->set_interrupt(&stop);
      stop.cancel();
      meeting->engine->step();
      meeting->engine->set_interrupt(nullptr);
    }
    if (end == End::kEngineGone) {
      meeting.reset();
      meeting = std::make_unique<Meeting>(model, chosen);
      meeting->engine->cancel(meeting->ids[0]);
    } else if (end != End::kFinished) {
      meeting->engine->cancel(meeting->ids[0]);
    }
    while (meeting->prompt[0].finishes == 0) meeting->engine->step();
    // Who decodes is alone.
    const offload::ExpertCounters after = draft;
    const auto tokens = meeting->decoding.ids.size();
    while (meeting->decoding.ids.size() < tokens + 6) ASSERT_TRUE(meeting->engine->step());
    EXPECT_FALSE(model.model->in_pass());
    EXPECT_GT((draft - after).fetched, 0) << static_cast<int>(end);
    EXPECT_EQ((draft - after).computed_on_cpu, 0) << static_cast<int>(end);
    meeting->finish();
    EXPECT_EQ(meeting->decoding.ids, alone(prompt_of(5, meeting->vocab()), 60));
  }
}

TEST(PausingPasses, GiveTheTokensOfMixedStepsOnAGpu) {
  if (const auto gpu = kernels::make_cuda_backend({}); !gpu) GTEST_SKIP() << gpu.error().message;
  TestModel model = streaming_model(nano_path(), 0.3, -1, /*with_cpu=*/true, "cuda");
  std::vector<std::vector<int32_t>> ids;
  for (const double share : {-1.0, kAfterEveryLayer}) {
    Meeting meeting(model, options(share));
    meeting.finish();
    EXPECT_EQ(meeting.engine->counters().paused_passes, share < 0 ? 0 : 1);
    if (share > 0) {
      // A step that lasts longer than the wire's copies lets the pass go on.
      EXPECT_GE(meeting.engine->counters().beside_steps, 1);
    }
    for (const Generated* each : {&meeting.decoding, &meeting.prompt[0]}) ids.push_back(each->ids);
    model.model->experts().device()->slots().check_conservation(/*idle=*/true);
  }
  // Sums of experts in another order may turn a token; a wrong pass turns the first ones.
  for (const size_t i : {0, 1}) {
    ASSERT_EQ(ids[i].size(), ids[i + 2].size());
    EXPECT_TRUE(std::equal(ids[i].begin(), ids[i].begin() + 6, ids[i + 2].begin()));
  }
}

TEST(PausingPasses, AnEngineMayEndInThem) {
  TestModel model = streaming_model(kSmall, 0.3);
  {
    Meeting meeting(model, options(kAfterEveryLayer));
    meeting.enter(2);
  }
  EXPECT_FALSE(model.model->in_pass());
  Meeting meeting(model, options(kAfterEveryLayer));
  meeting.finish();
  expect_tokens(meeting);
}

}  // namespace
}  // namespace longshore::engine
