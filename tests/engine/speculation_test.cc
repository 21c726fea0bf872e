// The engine with drafts of the MTP layer on tiny checkpoints in fp32: the same tokens as without,
// whatever is sampled, penalised, masked or stopped, and the target's distribution exactly.
#include "engine/speculation.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-bf16"), "reference", 160, /*threads=*/1);
  return model;
}

EngineOptions plain() {
  return {.context_length = 256, .max_running = 4, .prefill_budget = 64, .pages = 16};
}

EngineOptions speculating(int64_t steps) {
  EngineOptions options = plain();
  options.speculation = {.mtp = reference().mtp.get(), .max_steps = steps, .always = true};
  return options;
}

std::vector<int32_t> prompt(int64_t tokens, int32_t salt = 0) {
  return prompt_of(tokens, static_cast<int32_t>(reference().checkpoint->config().vocab_size), salt);
}

// Half of the ids at every place, another half after each token.
class Halves : public TokenConstraint {
 public:
  void fill(IdMask allowed) override {
    for (uint64_t& word : allowed) word = 0;
    for (size_t id = 0; id < allowed.size() * 64; ++id) {
      if (fits(static_cast<int32_t>(id))) allowed[id / 64] |= uint64_t{1} << (id % 64);
    }
  }
  void accept(int32_t id) override {
    LS_CHECK_MSG(at_ == taken_, "accept() while guesses stand");
    LS_CHECK(fits(id));
    at_ = taken_ = next(id);
  }
  bool draft(int32_t id) override {
    if (!fits(id)) return false;
    at_ = next(id);
    return true;
  }
  void drop_drafts() override { at_ = taken_; }

 private:
  [[nodiscard]] bool fits(int32_t id) const { return (id + at_) % 2 == 0; }
  [[nodiscard]] int32_t next(int32_t id) const { return (3 * at_ + id / 2 + 1) % 11; }
  int32_t taken_ = 0;
  int32_t at_ = 0;
};

class HalvesSource : public ConstraintSource {
 public:
  [[nodiscard]] std::unique_ptr<TokenConstraint> start(std::span<const int32_t>,
                                                       int64_t) const override {
    return std::make_unique<Halves>();
  }
};

void expect_same(const Generated& a, const Generated& b, int64_t steps) {
  EXPECT_EQ(a.ids, b.ids) << steps;
  EXPECT_EQ(a.result.reason, b.result.reason) << steps;
  EXPECT_EQ(a.result.stats.output_tokens, b.result.stats.output_tokens);
  ASSERT_EQ(a.tokens.size(), b.tokens.size());
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    EXPECT_NEAR(a.tokens[i].logprob, b.tokens[i].logprob, 1e-4);
    ASSERT_EQ(a.tokens[i].top_logprobs.size(), b.tokens[i].top_logprobs.size());
    for (size_t j = 0; j < a.tokens[i].top_logprobs.size(); ++j)
      EXPECT_EQ(a.tokens[i].top_logprobs[j].first, b.tokens[i].top_logprobs[j].first);
  }
}

TEST(Speculation, EverySettingOfTheSamplerGivesThePlainTokens) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    GenerationRequest request = greedy(prompt(20 + static_cast<int64_t>(seed) * 9), 40);
    SamplingParams& sampling = request.sampling;
    sampling.seed = seed;
    sampling.temperature = seed % 3 == 0 ? 0 : 0.7F;
    sampling.top_logprobs = 3;
    if (seed % 2 == 0) sampling.repetition_penalty = 1.4F;
    if (seed % 4 == 1) sampling.frequency_penalty = 0.9F;
    if (seed % 4 == 2) sampling.presence_penalty = 1.1F;
    if (seed % 5 == 0) sampling.logit_bias = {{7, 6.0F}, {9, -100.0F}};
    if (seed % 3 == 1) request.constraint = std::make_shared<HalvesSource>();
    const Generated expected = run(*make_engine(reference(), plain()), request);
    if (seed % 4 == 3) {
      request.stop_ids = {expected.ids[expected.ids.size() / 2]};
      request.min_tokens = 10;
    }
    const Generated stopped = run(*make_engine(reference(), plain()), request);
    for (const int64_t steps : {1, 2, 4}) {
      const auto engine = make_engine(reference(), speculating(steps));
      expect_same(run(*engine, request), stopped, steps);
      EXPECT_GT(engine->counters().speculated, 0);
    }
  }
}

TEST(Speculation, RightDraftsSaveSteps) {
  // A bias that leaves one id: draft and target agree on it.
  GenerationRequest request = greedy(prompt(10), 40);
  request.sampling.logit_bias = {{5, 100.0F}};
  const auto engine = make_engine(reference(), speculating(3));
  EXPECT_EQ(run(*engine, request).ids, std::vector<int32_t>(40, 5));
  EXPECT_LE(engine->counters().steps, 13);  // 1 + 39 / 4
  EXPECT_EQ(engine->counters().accepted[2], engine->counters().drafted[2]);
}

TEST(Speculation, WrongDraftsAreAllRejected) {
  const GenerationRequest request = greedy(prompt(30), 30);
  EngineOptions options = speculating(2);
  options.speculation.wrong_drafts = true;
  const auto engine = make_engine(reference(), options);
  EXPECT_EQ(run(*engine, request).ids, run(*make_engine(reference(), plain()), request).ids);
  EXPECT_GT(engine->counters().drafted[0], 20);
}

TEST(Speculation, AListenerThatStopsInTheMiddleOfAStepGetsNoMore) {
  GenerationRequest request = greedy(prompt(10), 40);
  request.sampling.logit_bias = {{5, 100.0F}};
  for (const size_t most : {1U, 2U, 3U, 6U}) {
    const auto engine = make_engine(reference(), speculating(3));
    Generated generated;
    Listener listener = record(generated);
    listener.on_token = [&, next = std::move(listener.on_token)](const Sampled& sampled) {
      return next(sampled) && generated.ids.size() < most;
    };
    ASSERT_TRUE(engine->submit(request, std::move(listener)));
    while (engine->step()) engine->check_conservation();
    EXPECT_EQ(generated.ids.size(), most);
    EXPECT_EQ(generated.result.reason, FinishReason::kCallback);
  }
}

// Pearson's test of the first tokens after many seeds against the target's own probabilities.
TEST(Speculation, SamplesTheTargetsDistribution) {
  constexpr int64_t kSeeds = 800;
  const auto counts = [&](const EngineOptions& options) {
    const auto engine = make_engine(reference(), options);
    std::map<int32_t, double> seen;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      GenerationRequest request = greedy(prompt(6), 3);
      request.sampling.temperature = 0.5F;
      request.sampling.top_k = 8;
      request.sampling.seed = seed;
      // The tokens after the first come out of verified rows; one first token, so that the third is
      // drawn from few distributions.
      request.sampling.logit_bias = {{3, 30.0F}, {4, 29.7F}, {8, 29.5F}};
      seen[run(*engine, request).ids[2]] += 1;
    }
    if (options.speculation.on()) {
      EXPECT_GT(engine->counters().accepted[0], kSeeds / 10);
    }
    return seen;
  };
  const auto plainly = counts(plain());
  // Other seeds would do for independence; the same ones make the bound sharper: they agree.
  EXPECT_EQ(counts(speculating(2)), plainly);
  // And the draws themselves follow the probabilities that logprobs report.
  double chi = 0;
  double expected_three = 0;
  GenerationRequest probe = greedy(prompt(6), 1);
  probe.sampling.logit_bias = {{3, 30.0F}, {4, 29.7F}, {8, 29.5F}};
  probe.sampling.top_logprobs = 3;
  const Generated probed = run(*make_engine(reference(), plain()), probe);
  std::map<int32_t, double> first;
  const auto engine = make_engine(reference(), speculating(2));
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    GenerationRequest request = probe;
    request.sampling.temperature = 1;
    request.sampling.seed = seed * 7919;
    first[run(*engine, request).ids[0]] += 1;
  }
  for (const auto& [id, logprob] : probed.tokens[0].top_logprobs) {
    const double expected = std::exp(static_cast<double>(logprob)) * kSeeds;
    chi += (first[id] - expected) * (first[id] - expected) / expected;
    expected_three += expected;
  }
  EXPECT_GT(expected_three, 0.99 * kSeeds);
  EXPECT_LT(chi, 13.8);  // 2 degrees of freedom, one in a thousand
}

TEST(Speculation, DraftsOfAPrefixThatTheDraftHasReadGoOn) {
  const auto engine = make_engine(reference(), speculating(2));
  run(*engine, greedy(prompt(150), 20));
  const int64_t before = engine->counters().speculated;
  const Generated again = run(*engine, greedy(prompt(150), 20));
  EXPECT_EQ(again.result.stats.cached_tokens, 128);
  EXPECT_GT(engine->counters().speculated, before);
}

TEST(Speculation, WithDepthZeroNothingIsDraftedAndItCatchesUpWhenOnAgain) {
  const auto engine = make_engine(reference(), speculating(2));
  Speculation off = engine->options().speculation;
  off.max_steps = 0;
  const GenerationRequest request = greedy(prompt(40), 60);
  const std::vector<int32_t> expected = run(*make_engine(reference(), plain()), request).ids;
  Generated generated;
  engine->set_speculation(off);
  ASSERT_TRUE(engine->submit(request, record(generated)));
  for (int i = 0; i < 20; ++i) engine->step();
  EXPECT_EQ(engine->counters().speculated, 0);
  engine->set_speculation(engine->options().speculation);
  while (engine->step()) {
  }
  EXPECT_GT(engine->counters().speculated, 5);
  EXPECT_EQ(generated.ids, expected);
}

// Rule: the draft touches nothing of the target's experts. What the target's store counts with
// drafts that are never right is what the rows of the target's own passes come to.
TEST(Speculation, TheDraftHasAStoreOfItsOwn) {
  offload::StoreOptions offload;
  offload.budget_bytes = 0;
  TestModel model(data_path("conformance/conf-bf16"), "fake:reference", 160, 1, 8, offload, true);
  EngineOptions options = plain();
  options.speculation = {.mtp = model.mtp.get(), .max_steps = 2, .always = true};
  const auto engine = make_engine(model, options);
  const int64_t layers =
      model.checkpoint->config().num_layers - model.checkpoint->config().first_k_dense;
  const int64_t each = layers * model.checkpoint->config().experts_per_token;
  const GenerationRequest request = greedy(prompt(40), 30);
  const Generated generated = run(*engine, request);
  EXPECT_EQ(generated.ids, run(*make_engine(reference(), plain()), request).ids);
  const int64_t rows = engine->counters().prompt_tokens + engine->counters().decode_steps +
                       engine->counters().draft_rows;
  EXPECT_EQ(model.model->experts().counters().routes, rows * each);
  EXPECT_GT(model.mtp->experts().counters().routes, 0);
}

}  // namespace
}  // namespace longshore::engine
