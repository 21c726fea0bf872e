// Guessing ahead with the MTP layer of the bundled model and of a tiny one: the tokens are those of
// plain decoding, only fewer steps give them.
#include <algorithm>
#include <array>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

constexpr int64_t kContext = 256;

TestModel& tiny() {
  static TestModel model(data_path("conformance/conf-bf16"), "reference", 192, /*threads=*/1);
  return model;
}
TestModel& nano() {
  static TestModel model(nano_path(), "generic", 192, /*threads=*/2);
  return model;
}

std::unique_ptr<Engine> engine(TestModel& model, int64_t drafts, int64_t pages = 24) {
  return make_engine(model, {.context_length = kContext,
                             .max_running = 6,
                             .prefill_budget = 64,
                             .pages = pages,
                             .prefix_cache = true,
                             .draft_tokens = drafts});
}

std::vector<int32_t> chat_prompt() {
  return GoldenFile(data_path("goldens/glm-nano/chat.safetensors")).ints("input_ids");
}

TEST(Drafts, TheBundledModelGivesTheSameTokensInFewerSteps) {
  const GenerationRequest request = greedy(chat_prompt(), 48);
  const auto plain = engine(nano(), 0);
  const Generated expected = run(*plain, request);
  for (const int64_t drafts : {1, 3, 5}) {
    const auto made = engine(nano(), drafts);
    const Generated actual = run(*made, request);
    EXPECT_EQ(actual.ids, expected.ids) << drafts;
    EXPECT_EQ(actual.result.reason, expected.result.reason);
    const EngineCounters& c = made->counters();
    EXPECT_GT(c.drafts_accepted, 0) << drafts;
    EXPECT_LT(c.steps, plain->counters().steps) << drafts;
    EXPECT_EQ(c.generated_tokens, static_cast<int64_t>(expected.ids.size()));
    int64_t by_depth = 0;
    for (size_t i = 0; i < c.accepted_by_depth.size(); ++i) {
      by_depth += c.accepted_by_depth[i];
      if (i > 0) {
        EXPECT_LE(c.accepted_by_depth[i], c.accepted_by_depth[i - 1]);
      }
    }
    EXPECT_EQ(by_depth, c.drafts_accepted);
    made->check_conservation();
  }
}

// A seed draws the same tokens: every token is drawn once, from the same distribution.
TEST(Drafts, SampledTokensAreThoseOfPlainDecoding) {
  const auto vocab = static_cast<int32_t>(tiny().checkpoint->config().vocab_size);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    GenerationRequest request = greedy(prompt_of(30, vocab, static_cast<int32_t>(seed)), 40);
    request.sampling.temperature = seed % 2 == 0 ? 1.0F : 0.3F;
    request.sampling.seed = seed;
    request.sampling.top_p = 0.95F;
    request.sampling.presence_penalty = 0.5F;
    request.sampling.repetition_penalty = 1.1F;
    request.sampling.logit_bias = {{7, 2.0F}};
    request.sampling.top_logprobs = 2;
    const Generated expected = run(*engine(tiny(), 0), request);
    const Generated actual = run(*engine(tiny(), 1 + static_cast<int64_t>(seed % 4)), request);
    ASSERT_EQ(actual.ids, expected.ids) << seed;
    for (size_t i = 0; i < expected.tokens.size(); ++i) {
      ASSERT_EQ(actual.tokens[i].logprob, expected.tokens[i].logprob) << seed;
      ASSERT_EQ(actual.tokens[i].top_logprobs, expected.tokens[i].top_logprobs) << seed;
    }
  }
}

// Pearson's statistic of the second and third token over many seeds against the same of plain
// decoding: the distribution is the target's.
TEST(Drafts, KeepTheTargetsDistribution) {
  const auto vocab = static_cast<int32_t>(tiny().checkpoint->config().vocab_size);
  constexpr int kSeeds = 400;
  constexpr size_t kBins = 8;
  std::array<std::array<double, kBins>, 2> counts{};
  for (int drafts = 0; drafts < 2; ++drafts) {
    const auto made = engine(tiny(), drafts * 3);
    for (int seed = 0; seed < kSeeds; ++seed) {
      GenerationRequest request = greedy(prompt_of(12, vocab), 3);
      request.sampling.temperature = 1;
      // Other seeds on either side: the draws are independent.
      request.sampling.seed = static_cast<uint64_t>(seed + drafts * kSeeds);
      const Generated generated = run(*made, request);
      for (size_t i = 1; i < generated.ids.size(); ++i)
        counts[static_cast<size_t>(drafts)][static_cast<size_t>(generated.ids[i]) % kBins] += 1;
    }
  }
  double statistic = 0;
  for (size_t bin = 0; bin < kBins; ++bin) {
    const double a = counts[0][bin];
    const double b = counts[1][bin];
    if (a + b > 0) statistic += (a - b) * (a - b) / (a + b);
  }
  EXPECT_LT(statistic, 24.3) << "chi-square with 7 degrees of freedom, 0.1 %";
}

TEST(Drafts, EndWhereTheOutputEnds) {
  const GenerationRequest whole = greedy(chat_prompt(), 40);
  const std::vector<int32_t> ids = run(*engine(nano(), 0), whole).ids;
  for (const size_t end : {size_t{1}, size_t{2}, size_t{7}, size_t{20}}) {
    GenerationRequest request = whole;
    request.max_tokens = static_cast<int64_t>(end);
    const Generated cut = run(*engine(nano(), 4), request);
    EXPECT_EQ(cut.ids, std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<long>(end)));
    EXPECT_EQ(cut.result.reason, FinishReason::kLength);
    request = whole;
    request.stop_ids = {ids[end]};
    const Generated stopped = run(*engine(nano(), 4), request);
    const Generated expected = run(*engine(nano(), 0), request);
    EXPECT_EQ(stopped.ids, expected.ids);
    EXPECT_EQ(stopped.result.reason, expected.result.reason);
  }
}

// Two prompts with a shared beginning, one after the other and together, with too few pages for
// all: drafts take nobody's pages and cached prefixes serve them.
TEST(Drafts, LiveWithSharedPrefixesAndTooFewPages) {
  const auto vocab = static_cast<int32_t>(tiny().checkpoint->config().vocab_size);
  const auto made = engine(tiny(), 3, 4);
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt = prompt_of(100, vocab);
    prompt.back() = i;
    requests.push_back(greedy(std::move(prompt), 60));
  }
  std::vector<Generated> generated(requests.size());
  for (size_t i = 0; i < requests.size(); ++i)
    ASSERT_TRUE(made->submit(requests[i], record(generated[i])));
  while (made->step()) made->check_conservation();
  EXPECT_GT(made->counters().preemptions, 0);
  for (size_t i = 0; i < requests.size(); ++i)
    EXPECT_EQ(generated[i].ids, run(*engine(tiny(), 0), requests[i]).ids) << i;
  const int64_t hits = made->counters().prefix_hits;
  EXPECT_EQ(run(*made, requests[2]).ids, generated[2].ids);
  EXPECT_GT(made->counters().prefix_hits, hits);
}

}  // namespace
}  // namespace longshore::engine
