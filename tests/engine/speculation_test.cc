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

TEST(Speculation, OnceLeftItDraftsNothingAndIsBackAtOnce) {
  const auto engine = make_engine(reference(), speculating(2));
  engine->leave_speculation(true);
  const Generated left = run(*engine, greedy(prompt(30), 20));
  EXPECT_EQ(engine->counters().speculated, 0);
  EXPECT_EQ(left.result.stats.drafted, 0);
  Generated generated;
  ASSERT_TRUE(engine->submit(greedy(prompt(40, 1), 20), record(generated)));
  for (int i = 0; i < 5; ++i) engine->step();
  EXPECT_TRUE(engine->decoding_only());
  EXPECT_EQ(engine->counters().speculated, 0);
  engine->leave_speculation(false);
  while (engine->step()) {
  }
  EXPECT_GT(engine->counters().speculated, 3);
  EXPECT_EQ(generated.ids, run(*make_engine(reference(), plain()), greedy(prompt(40, 1), 20)).ids);
  const auto before = engine->counters();
  const Generated back = run(*engine, greedy(prompt(50, 2), 20));
  EXPECT_EQ(back.result.stats.accepted + before.accepted[0] + before.accepted[1],
            engine->counters().accepted[0] + engine->counters().accepted[1]);
  EXPECT_GT(back.result.stats.drafted, back.result.stats.accepted);
}

// What steps without guesses leave behind is never read; the draft goes on without it.
TEST(Speculation, StepsWithoutGuessesInBetweenLeaveTheTokens) {
  const auto engine = make_engine(reference(), speculating(3));
  const GenerationRequest request = greedy(prompt(70), 80);
  Generated generated;
  ASSERT_TRUE(engine->submit(request, record(generated)));
  for (int i = 0; engine->step(); ++i) {
    engine->pause_speculation(i % 5 == 2 || i % 7 > 4);
    engine->leave_speculation(i % 11 == 3);
  }
  EXPECT_EQ(generated.ids, run(*make_engine(reference(), plain()), request).ids);
  EXPECT_GT(engine->counters().speculated, 20);
}

// Of an answer that is in its middle, the draft reads what comes from then on: rows of the steps.
TEST(Speculation, GuessesTeachOnceTheDraftHasReadEnough) {
  for (const int left : {0, 4}) {
    const auto engine = make_engine(reference(), speculating(2));
    const double prior = engine->policy().acceptance(0);
    Generated generated;
    ASSERT_TRUE(engine->submit(greedy(prompt(40), 40), record(generated)));
    engine->step();  // the prompt
    engine->leave_speculation(true);
    for (int i = 0; i < left; ++i) engine->step();
    engine->leave_speculation(false);
    const auto tokens = [&] { return static_cast<int64_t>(generated.ids.size()); };
    // A step reads the rows of the one before; of those that were left there are none.
    int64_t read = left == 0 ? SpeculationPolicy::kSight : 0;
    while (read < SpeculationPolicy::kSight) {
      const int64_t before = tokens();
      engine->step();
      EXPECT_EQ(engine->policy().acceptance(0), prior);
      read += tokens() - before;
    }
    if (left > 0) {
      EXPECT_GT(engine->counters().drafted[0], 2);
    }
    engine->step();
    EXPECT_NE(engine->policy().acceptance(0), prior) << left;
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

// What follows the prefix according to the target's logprobs, at this temperature and top-p.
std::map<int32_t, double> chances(const Sampled& sampled, double temperature, double top_p) {
  double total = 0;
  for (const auto& [id, logprob] : sampled.top_logprobs) total += std::exp(logprob / temperature);
  std::map<int32_t, double> kept;
  double sum = 0;
  for (const auto& [id, logprob] : sampled.top_logprobs) {
    if (sum >= top_p) break;
    sum += kept[id] = std::exp(logprob / temperature) / total;
  }
  for (auto& [id, chance] : kept) chance /= sum;
  return kept;
}

// Pearson's test of whole outputs: the first token, the second given the first, the third given
// both, each with the probability that the target's own logprobs give it.
void expect_the_targets_outputs(const SamplingParams& sampling) {
  constexpr uint64_t kSeeds = 2000;
  const auto engine = make_engine(reference(), speculating(2));
  std::map<std::vector<int32_t>, double> seen;
  std::map<std::vector<int32_t>, std::map<int32_t, double>> after;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    GenerationRequest request = greedy(prompt(6), 3);
    request.sampling = sampling;
    request.sampling.seed = seed * 7919 + 5;
    request.sampling.top_logprobs = 3;
    const Generated generated = run(*engine, request);
    seen[generated.ids] += 1;
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<int32_t> prefix(generated.ids.begin(),
                                        generated.ids.begin() + static_cast<std::ptrdiff_t>(i));
      after[prefix] = chances(generated.tokens[i], sampling.temperature, sampling.top_p);
    }
  }
  EXPECT_GT(engine->counters().accepted[0], 100);
  EXPECT_GT(engine->counters().drafted[0], engine->counters().accepted[0] + 100);
  double chi = 0;
  double rare = kSeeds;  // expected of what is not a cell of its own
  double rare_seen = kSeeds;
  int cells = 0;
  for (const auto& [output, count] : seen) {
    double chance = kSeeds;
    for (size_t i = 0; i < 3; ++i) {
      const std::vector<int32_t> prefix(output.begin(),
                                        output.begin() + static_cast<std::ptrdiff_t>(i));
      ASSERT_TRUE(after[prefix].contains(output[i])) << "drawn, and has no probability";
      chance *= after[prefix][output[i]];
    }
    if (chance < 8) continue;
    chi += (count - chance) * (count - chance) / chance;
    rare -= chance;
    rare_seen -= count;
    ++cells;
  }
  if (rare > 8) chi += (rare_seen - rare) * (rare_seen - rare) / rare;
  EXPECT_GE(cells, 8);
  // Above cells - 1 degrees of freedom by three deviations and a little: one in a thousand.
  EXPECT_LT(chi, cells + 3.3 * std::sqrt(2.0 * cells) + 3) << cells << " cells";
}

SamplingParams three_ids() {
  SamplingParams sampling;
  sampling.temperature = 1;
  sampling.logit_bias = {{3, 30.0F}, {4, 29.7F}, {8, 29.5F}};
  return sampling;
}

TEST(Speculation, WholeOutputsFollowTheTargetsDistribution) {
  expect_the_targets_outputs(three_ids());
}

TEST(Speculation, WholeOutputsFollowItWithTopPAndPenalties) {
  SamplingParams sampling = three_ids();
  sampling.temperature = 1.2F;
  sampling.top_p = 0.9F;
  sampling.frequency_penalty = 0.6F;
  sampling.repetition_penalty = 1.02F;
  expect_the_targets_outputs(sampling);
}

// A device's steps, the draft's too, run as graphs; batches of several sequences, guesses that are
// right and wrong ones.
TEST(Speculation, CapturedStepsGiveThePlainTokens) {
  TestModel model(data_path("conformance/conf-bf16"), "fake:reference", 160, 1, 32);
  EngineOptions options = plain();
  options.speculation = {.mtp = model.mtp.get(), .max_steps = 3, .always = true};
  const auto engine = make_engine(model, options);
  ASSERT_TRUE(model.model->capture_steps(engine->caches(), {}));
  ASSERT_TRUE(engine->capture_drafts({}));
  const int64_t uploads = model.fake->memory().uploads;
  std::vector<Generated> generated(4);
  for (int32_t i = 0; i < 4; ++i) {
    GenerationRequest request = greedy(prompt(20 + 7 * i, i), 40);
    if (i % 2 == 0) request.sampling.logit_bias = {{5, 3.0F}};
    ASSERT_TRUE(engine->submit(request, record(generated[static_cast<size_t>(i)])));
  }
  while (engine->step()) {
  }
  for (int32_t i = 0; i < 4; ++i) {
    GenerationRequest request = greedy(prompt(20 + 7 * i, i), 40);
    if (i % 2 == 0) request.sampling.logit_bias = {{5, 3.0F}};
    EXPECT_EQ(generated[static_cast<size_t>(i)].ids,
              run(*make_engine(reference(), plain()), request).ids)
        << i;
  }
  EXPECT_GT(model.mtp->replayed_steps(), 30);
  EXPECT_GT(engine->counters().accepted[1], 5);
  EXPECT_EQ(model.fake->memory().uploads, uploads) << "hidden states stay on the device";
}

TEST(Speculation, BehindAPrefixFromTheCacheItDrafts) {
  const auto engine = make_engine(reference(), speculating(2));
  run(*engine, greedy(prompt(150), 20));
  const int64_t before = engine->counters().speculated;
  const Generated again = run(*engine, greedy(prompt(150), 20));
  EXPECT_EQ(again.result.stats.cached_tokens, 128);
  EXPECT_GT(engine->counters().speculated, before);
}

std::vector<GenerationRequest> mixed_requests() {
  std::vector<GenerationRequest> requests;
  for (int32_t i = 0; i < 5; ++i) {
    GenerationRequest& request = requests.emplace_back(greedy(prompt(20 + 17 * i, i), 30 + 3 * i));
    request.sampling.seed = static_cast<uint64_t>(i);
    if (i % 2 == 1) request.sampling.temperature = 0.4F;
    if (i == 3) request.sampling.top_k = 5;
  }
  requests[2].sampling.repetition_penalty = 1.2F;  // the host's
  requests[4].constraint = std::make_shared<HalvesSource>();
  return requests;
}

struct Served {
  std::vector<Generated> generated = std::vector<Generated>(5);
  EngineCounters counters;
};

Served serve(TestModel& model, EngineOptions options) {
  options.max_running = 5;
  options.speculation = {.mtp = model.mtp.get(), .max_steps = 3, .always = true};
  const auto engine = make_engine(model, options);
  Served served;
  const auto requests = mixed_requests();
  for (size_t i = 0; i < requests.size(); ++i)
    LS_CHECK(engine->submit(requests[i], record(served.generated[i])));
  while (engine->step()) {
  }
  served.counters = engine->counters();
  return served;
}

// On a device guesses follow one another without the host where it has nothing to add: the same
// guesses, beside requests that need the host for each.
TEST(Speculation, GuessesThatStayOnTheDeviceAreTheHosts) {
  TestModel host(nano_path(), "generic", 160, 1, 32);
  TestModel device(nano_path(), "fake:generic", 160, 1, 32);
  ASSERT_TRUE(device.mtp->draws());
  ASSERT_FALSE(host.mtp->draws());
  const Served on_host = serve(host, plain());
  const Served on_device = serve(device, plain());
  EXPECT_GT(on_host.counters.accepted[1], 5);
  EXPECT_EQ(on_device.counters.drafted, on_host.counters.drafted);
  EXPECT_EQ(on_device.counters.accepted, on_host.counters.accepted);
  for (size_t i = 0; i < on_host.generated.size(); ++i)
    EXPECT_EQ(on_device.generated[i].ids, on_host.generated[i].ids) << i;
}

// A bias of nothing makes the host draw every guess.
TEST(Speculation, GuessesThatStayOnAGpuAreTheHosts) {
  if (const auto gpu = kernels::make_cuda_backend({}); !gpu) GTEST_SKIP() << gpu.error().message;
  TestModel gpu(nano_path(), "cuda", 512, 1, 32);
  EngineOptions options = plain();
  options.speculation = {.mtp = gpu.mtp.get(), .max_steps = 3, .always = true};
  const auto engine = make_engine(gpu, options);
  ASSERT_TRUE(gpu.model->capture_steps(engine->caches(), {}));
  ASSERT_TRUE(engine->capture_drafts({}));
  std::vector<Generated> generated(8);
  std::vector<EngineCounters> counters;
  const auto vocab = static_cast<int32_t>(gpu.checkpoint->config().vocab_size);
  for (size_t way = 0; way < 2; ++way) {
    for (size_t i = 0; i < 4; ++i) {
      const auto salt = static_cast<int32_t>(i);
      GenerationRequest request = greedy(prompt_of(30 + 11 * salt, vocab, salt), 60);
      request.sampling.seed = i;
      if (i % 2 == 1) request.sampling.temperature = 0.3F;
      if (way == 1) request.sampling.logit_bias = {{7, 0.0F}};
      ASSERT_TRUE(engine->submit(request, record(generated[4 * way + i])));
    }
    while (engine->step()) {
    }
    engine->clear_prefix_cache();
    counters.push_back(engine->counters());
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(generated[i].ids, generated[4 + i].ids) << i;
  for (size_t depth = 0; depth < 3; ++depth) {
    EXPECT_GT(counters[0].drafted[depth], 5);
    EXPECT_EQ(counters[1].drafted[depth], 2 * counters[0].drafted[depth]);
    EXPECT_EQ(counters[1].accepted[depth], 2 * counters[0].accepted[depth]);
  }
}

TEST(Speculation, GuessesOfADeviceComeInOneCopy) {
  TestModel device(data_path("conformance/conf-bf16"), "fake:reference", 160, 1, 32);
  EngineOptions options = plain();
  options.speculation = {.mtp = device.mtp.get(), .max_steps = 3, .always = true};
  const auto engine = make_engine(device, options);
  const int64_t before = device.fake->memory().downloads;
  run(*engine, greedy(prompt(40), 30));
  // Of every step the ids, and of every step but the prompt's and the last the guesses.
  EXPECT_LE(device.fake->memory().downloads - before, 2 * engine->counters().steps - 1);
  EXPECT_GT(engine->counters().drafted[0], 20);
}

TEST(Speculation, LogitsOfTheDraftThatAreNotFiniteEndItsGuesses) {
  TestModel device(data_path("conformance/conf-bf16"), "fake:reference", 160, 1, 32);
  EngineOptions options = plain();
  options.speculation = {.mtp = device.mtp.get(), .max_steps = 3, .always = true};
  const auto engine = make_engine(device, options);
  Generated generated;
  ASSERT_TRUE(engine->submit(greedy(prompt(40), 30), record(generated)));
  for (int i = 0; i < 4; ++i) engine->step();
  device.fake->spoil_logits = true;
  while (engine->step()) {
  }
  EXPECT_EQ(generated.result.reason, FinishReason::kFault);
}

TEST(Speculation, SecondsAreMeasuredAtTheStartOfADevice) {
  TestModel device(data_path("conformance/conf-bf16"), "fake:reference", 160, 1, 32);
  EngineOptions options = plain();
  options.speculation = {.mtp = device.mtp.get(), .max_steps = 2};
  const auto engine = make_engine(device, options);
  EXPECT_FALSE(engine->policy().rate({1, 0}, 0));
  ASSERT_TRUE(device.model->capture_steps(engine->caches(), {}));
  ASSERT_TRUE(engine->capture_drafts({}));
  for (const int64_t sequences : {1, 3, 4}) {
    for (const int64_t steps : {0, 1, 2})
      EXPECT_GT(engine->policy().rate({sequences, 0}, steps), 0);
  }
  EXPECT_EQ(run(*engine, greedy(prompt(40), 30)).ids,
            run(*make_engine(reference(), plain()), greedy(prompt(40), 30)).ids);
}

TEST(Speculation, WithDepthZeroNothingIsDraftedAndDraftsGoOnWhenOnAgain) {
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
