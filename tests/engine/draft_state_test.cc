// What the draft has read of a sequence, across everything that takes a sequence out of its steps:
// guesses teach the cost model only where the draft has read enough, so what they teach tells what
// the engine takes it to have read.
#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

constexpr int64_t kSight = SpeculationPolicy::kSight;

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-bf16"), "reference", 160, /*threads=*/1);
  return model;
}

// Every guess is a wrong one: a step gives one token and leaves one row to read.
EngineOptions wrongly_guessing(int64_t steps) {
  EngineOptions options{.context_length = 192, .max_running = 2, .prefill_budget = 64, .pages = 6};
  options.speculation = {
      .mtp = reference().mtp.get(), .max_steps = steps, .always = true, .wrong_drafts = true};
  return options;
}

std::vector<int32_t> prompt(int64_t tokens, int32_t salt = 0) {
  return prompt_of(tokens, static_cast<int32_t>(reference().checkpoint->config().vocab_size), salt);
}

void submit(Engine& engine, const GenerationRequest& request, Generated& generated) {
  ASSERT_TRUE(engine.submit(request, record(generated)));
}

// As if nothing had been guessed yet.
void forget(Engine& engine) {
  engine.set_policy(SpeculationPolicy(engine.options().speculation.max_steps));
}

bool taught(const Engine& engine) {
  return engine.policy().acceptance(0) !=
         SpeculationPolicy(engine.options().speculation.max_steps).acceptance(0);
}

// Steps with guesses before the first that teaches, up to twice as many as blindness may take.
int64_t blind_steps(Engine& engine) {
  forget(engine);
  int64_t steps = 0;
  while (steps <= 2 * kSight) {
    engine.step();
    if (taught(engine)) return steps;
    if (engine.last_step().draft_steps > 0) ++steps;
  }
  return steps;
}

// A tail of so many rows behind what was cached: the first guesses are made with that read.
int64_t blind_steps_behind(int64_t tail) {
  return tail >= kSight ? 0 : kSight - tail;
}

TEST(DraftState, BehindACachedPrefixTheDraftHasReadTheTail) {
  for (const int64_t tail : {1, 3, 7, 8, 20}) {
    const auto engine = make_engine(reference(), wrongly_guessing(1));
    run(*engine, greedy(prompt(128 + tail), 12));
    Generated again;
    submit(*engine, greedy(prompt(128 + tail), 30), again);
    EXPECT_EQ(blind_steps(*engine), blind_steps_behind(tail)) << tail;
    while (engine->step()) {
    }
    EXPECT_EQ(again.result.stats.cached_tokens, 128);
  }
}

// A chunk alone leaves its hidden states: the last one may be as short.
TEST(DraftState, OfAPromptInChunksTheDraftHasReadTheLast) {
  for (const int64_t tail : {2, 9}) {
    const auto engine = make_engine(reference(), wrongly_guessing(1));
    Generated generated;
    submit(*engine, greedy(prompt(64 + tail), 30), generated);
    EXPECT_EQ(blind_steps(*engine), blind_steps_behind(tail)) << tail;
  }
}

// What it had read lay in pages that were given away.
TEST(DraftState, OfAPreemptedSequenceNothingHasBeenRead) {
  EngineOptions options = wrongly_guessing(1);
  options.pages = 4;
  const auto engine = make_engine(reference(), options);
  Generated older;
  Generated younger;
  submit(*engine, greedy(prompt(118), 50), older);
  submit(*engine, greedy(prompt(56, 1), 60), younger);
  while (engine->counters().preemptions == 0) ASSERT_TRUE(engine->step());
  ASSERT_TRUE(taught(*engine)) << "it saw before";
  // One page of it is still cached, and the rest is short.
  const int64_t tail = 56 + static_cast<int64_t>(younger.ids.size()) - 64;
  ASSERT_GT(tail, 0);
  ASSERT_LT(tail, kSight);
  while (older.finishes == 0) engine->step();
  ASSERT_EQ(younger.finishes, 0);
  EXPECT_EQ(blind_steps(*engine), blind_steps_behind(tail));
  while (engine->step()) {
  }
  EXPECT_EQ(younger.result.stats.preemptions, 1);
  EXPECT_EQ(
      younger.ids,
      run(*make_engine(reference(),
                       {.context_length = 192, .max_running = 1, .prefill_budget = 64, .pages = 6}),
          greedy(prompt(56, 1), 60))
          .ids);
}

// Allows everything, and interrupts the step in which it hears of a guess.
class InterruptSource : public ConstraintSource {
 public:
  explicit InterruptSource(CancelToken* token) : token_(token) {}
  [[nodiscard]] std::unique_ptr<TokenConstraint> start(std::span<const int32_t>,
                                                       int64_t) const override {
    return std::make_unique<Interrupt>(this);
  }
  void arm() { armed_ = true; }

 private:
  class Interrupt : public TokenConstraint {
   public:
    explicit Interrupt(const InterruptSource* source) : source_(source) {}
    void fill(IdMask allowed) override { std::fill(allowed.begin(), allowed.end(), ~uint64_t{0}); }
    void accept(int32_t) override {}
    bool draft(int32_t) override {
      if (source_->armed_) source_->token_->cancel();
      return true;
    }
    void drop_drafts() override {}

   private:
    const InterruptSource* source_;
  };
  CancelToken* token_;
  bool armed_ = false;
};

// One decodes, another's prompt is cancelled between two of its chunks, by a step that was
// interrupted: before its drafts, between two of them, or in the target's pass. Who decodes has
// lost nothing of what its draft has read.
TEST(DraftState, SurvivesTheCancellationOfAnothersChunkedPrompt) {
  enum class At { kDrafts, kSecondGuess, kPass };
  for (const At at : {At::kDrafts, At::kSecondGuess, At::kPass}) {
    CancelToken token;
    const auto source = std::make_shared<InterruptSource>(&token);
    const auto engine = make_engine(reference(), wrongly_guessing(at == At::kSecondGuess ? 2 : 1));
    engine->set_interrupt(&token);
    GenerationRequest request = greedy(prompt(30), 60);
    if (at != At::kDrafts) request.constraint = source;
    Generated decoding;
    Generated cancelled;
    submit(*engine, request, decoding);
    while (decoding.ids.size() < 3) engine->step();
    const auto id = engine->submit(greedy(prompt(180, 1), 5), record(cancelled));
    engine->step();
    const size_t before = decoding.ids.size();
    if (at == At::kDrafts) token.cancel();
    source->arm();
    engine->step();
    ASSERT_EQ(decoding.ids.size(), before) << "interrupted";
    token.reset();
    *source = InterruptSource(&token);
    engine->cancel(*id);
    EXPECT_EQ(blind_steps(*engine), 0) << static_cast<int>(at);
    EXPECT_EQ(cancelled.result.reason, FinishReason::kCancelled);
    while (engine->step()) engine->check_conservation();
    EXPECT_EQ(decoding.ids,
              run(*make_engine(reference(), wrongly_guessing(1)), greedy(prompt(30), 60)).ids);
  }
}

// Its pages are found again by whoever asks the same; what its draft had read is not.
TEST(DraftState, OfAPromptWhoseFirstAskerWasCancelledTheDraftReadsTheRest) {
  const auto engine = make_engine(reference(), wrongly_guessing(1));
  Generated cancelled;
  Generated asked;
  const auto id = engine->submit(greedy(prompt(132), 5), record(cancelled));
  engine->step();
  engine->step();
  engine->cancel(*id);
  submit(*engine, greedy(prompt(132), 30), asked);
  EXPECT_EQ(blind_steps(*engine), blind_steps_behind(4));
  while (engine->step()) {
  }
  EXPECT_EQ(cancelled.result.reason, FinishReason::kCancelled);
  EXPECT_EQ(asked.result.stats.cached_tokens, 128);
}

}  // namespace
}  // namespace longshore::engine
