// The generator on a small checkpoint in fp32: what is cached, chunked or stopped must not change
// the tokens.
#include "engine/generator.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/golden.h"

namespace longshore::engine {
namespace {

using testing::HasSubstr;

constexpr int64_t kContext = 160;

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-fp8"), "reference", 64);
  return model;
}

int32_t vocab() {
  return static_cast<int32_t>(reference().checkpoint->config().vocab_size);
}

std::vector<int32_t> prompt_of(int64_t tokens, int32_t salt = 0) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < static_cast<int32_t>(tokens); ++i)
    ids.push_back((i * 37 + 11 + salt * 101) % vocab());
  return ids;
}

Generator make_generator(int64_t chunk = 64, int64_t context = kContext) {
  auto made = Generator::create(*reference().model, reference().layout,
                                {.context_length = context, .chunk = chunk});
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return std::move(*made);
}

GenerationRequest greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

struct Generated {
  std::vector<int32_t> ids;
  GenerationResult result;
};

Generated run(Generator& generator, const GenerationRequest& request) {
  const CancelToken cancel;
  Generated generated;
  const auto result = generator.generate(
      request,
      [&](const Sampled& sampled) {
        generated.ids.push_back(sampled.id);
        return true;
      },
      cancel);
  LS_CHECK_MSG(result.has_value(), "{}", result.error().message);
  generated.result = *result;
  return generated;
}

std::vector<int32_t> fresh(const GenerationRequest& request) {
  Generator generator = make_generator();
  return run(generator, request).ids;
}

TEST(Generator, EveryChunkSizeGivesTheSameTokens) {
  const GenerationRequest request = greedy(prompt_of(50), 12);
  const std::vector<int32_t> whole = fresh(request);
  ASSERT_EQ(whole.size(), 12U);
  for (const int64_t chunk : {1, 2, 7, 16, 49, 50, 51, 63}) {
    Generator generator = make_generator(chunk);
    EXPECT_EQ(run(generator, request).ids, whole) << "chunk " << chunk;
  }
}

TEST(Generator, ASharedPrefixIsReusedAndChangesNothing) {
  Generator generator = make_generator();
  const Generated first = run(generator, greedy(prompt_of(40), 8));
  EXPECT_EQ(first.result.stats.cached_tokens, 0);

  // The conversation goes on: all but the last generated token are in the cache.
  std::vector<int32_t> longer = prompt_of(40);
  longer.insert(longer.end(), first.ids.begin(), first.ids.end());
  const std::vector<int32_t> more = prompt_of(9, 3);
  longer.insert(longer.end(), more.begin(), more.end());
  const GenerationRequest next = greedy(longer, 8);
  const Generated second = run(generator, next);
  EXPECT_EQ(second.result.stats.cached_tokens, 47);
  EXPECT_EQ(second.result.stats.prompt_tokens, 57);
  EXPECT_EQ(second.ids, fresh(next));

  // Back to a shorter prefix with another end.
  std::vector<int32_t> branch = prompt_of(33);
  branch.push_back((prompt_of(40)[33] + 1) % vocab());
  const Generated third = run(generator, greedy(branch, 8));
  EXPECT_EQ(third.result.stats.cached_tokens, 33);
  EXPECT_EQ(third.ids, fresh(greedy(branch, 8)));
}

TEST(Generator, TheSamePromptAgainRunsOnlyItsLastToken) {
  Generator generator = make_generator();
  const GenerationRequest request = greedy(prompt_of(40), 5);
  const Generated first = run(generator, request);
  const Generated again = run(generator, request);
  EXPECT_EQ(again.result.stats.cached_tokens, 39);
  EXPECT_EQ(again.ids, first.ids);
  generator.reset();
  EXPECT_EQ(generator.pool().free_pages(), generator.pool().capacity());
  EXPECT_EQ(run(generator, request).result.stats.cached_tokens, 0);
}

TEST(Generator, MaxTokensAndTheContextLimitTheLength) {
  Generator generator = make_generator(64, 48);
  for (const int64_t limit : {0, 1, 5}) {
    const Generated limited = run(generator, greedy(prompt_of(40), limit));
    EXPECT_EQ(static_cast<int64_t>(limited.ids.size()), limit);
    EXPECT_EQ(limited.result.stats.output_tokens, limit);
    EXPECT_EQ(limited.result.reason, FinishReason::kLength);
  }
  EXPECT_EQ(run(generator, greedy(prompt_of(40), -1)).ids.size(), 8U)
      << "as many as the context holds";
  EXPECT_EQ(run(generator, greedy(prompt_of(40), 100)).ids.size(), 8U);
  EXPECT_EQ(run(generator, greedy(prompt_of(47), -1)).ids.size(), 1U);
}

TEST(Generator, StopIdsEndTheOutputUnlessIgnored) {
  GenerationRequest request = greedy(prompt_of(40), 10);
  const std::vector<int32_t> free_run = fresh(request);
  request.stop_ids = {free_run[3]};
  const auto at = std::find(free_run.begin(), free_run.end(), free_run[3]) + 1;
  Generator generator = make_generator();
  const Generated stopped = run(generator, request);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(free_run.begin(), at));
  EXPECT_EQ(stopped.result.reason, FinishReason::kStopId);
  request.ignore_stop_ids = true;
  const Generated ignored = run(generator, request);
  EXPECT_EQ(ignored.ids, free_run);
  EXPECT_EQ(ignored.result.reason, FinishReason::kLength);
}

TEST(Generator, StopIdsCannotComeBeforeMinTokens) {
  GenerationRequest request = greedy(prompt_of(40), 10);
  request.stop_ids = {fresh(request)[0]};
  request.min_tokens = 4;
  Generator generator = make_generator();
  const Generated result = run(generator, request);
  ASSERT_GE(result.ids.size(), 4U);
  const auto early = result.ids.begin() + 4;
  EXPECT_EQ(std::find(result.ids.begin(), early, request.stop_ids[0]), early);
  request.min_tokens = 0;
  EXPECT_EQ(run(generator, request).ids, request.stop_ids);
}

TEST(Generator, TheCallbackStops) {
  Generator generator = make_generator();
  const CancelToken cancel;
  int64_t seen = 0;
  const auto result = generator.generate(
      greedy(prompt_of(20), 10), [&](const Sampled&) { return ++seen < 3; }, cancel);
  ASSERT_TRUE(result);
  EXPECT_EQ(seen, 3);
  EXPECT_EQ(result->reason, FinishReason::kCallback);
}

TEST(Generator, CancellationStopsWithinAStepAndLeavesTheGeneratorUsable) {
  Generator generator = make_generator(8);
  CancelToken cancel;
  std::vector<int32_t> ids;
  const GenerationRequest request = greedy(prompt_of(40), 10);
  const auto cancelled = generator.generate(
      request,
      [&](const Sampled& sampled) {
        ids.push_back(sampled.id);
        if (ids.size() == 3) cancel.cancel();
        return true;
      },
      cancel);
  ASSERT_TRUE(cancelled);
  EXPECT_EQ(cancelled->reason, FinishReason::kCancelled);
  EXPECT_EQ(ids.size(), 3U);
  const auto before = generator.generate(
      greedy(prompt_of(40, 5), 10), [](const Sampled&) { return true; }, cancel);
  ASSERT_TRUE(before);
  EXPECT_EQ(before->reason, FinishReason::kCancelled);
  EXPECT_EQ(before->stats.output_tokens, 0);
  EXPECT_EQ(run(generator, request).ids, fresh(request));
}

TEST(Generator, RefusesBadRequestsByName) {
  Generator generator = make_generator(16, 32);
  const CancelToken cancel;
  const auto refused = [&](const GenerationRequest& request) {
    const auto result = generator.generate(
        request, [](const Sampled&) { return true; }, cancel);
    if (result) return std::string("accepted");
    EXPECT_EQ(result.error().kind, ErrorKind::kUsage);
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
    return result.error().message;
  };
  EXPECT_THAT(refused(greedy({}, 1)), HasSubstr("prompt is empty"));
  EXPECT_THAT(refused(greedy(prompt_of(32), 1)), HasSubstr("32 tokens and the context holds 32"));
  EXPECT_THAT(refused(greedy({1, vocab()}, 1)), HasSubstr("the prompt has token id"));
  EXPECT_THAT(refused(greedy({-1}, 1)), HasSubstr("the prompt has token id -1"));
  EXPECT_THAT(refused(greedy({1}, -2)), HasSubstr("max_tokens is -2"));
  GenerationRequest request = greedy({1}, 1);
  request.min_tokens = -1;
  EXPECT_THAT(refused(request), HasSubstr("min_tokens is -1"));
  request = greedy({1}, 1);
  request.min_tokens = 1;
  request.stop_ids = {vocab()};
  EXPECT_THAT(refused(request), HasSubstr("the stop ids have token id"));
  request = greedy({1}, 1);
  request.sampling.top_p = 0;
  EXPECT_THAT(refused(request), HasSubstr("top_p is 0"));
}

TEST(Generator, DecodingTokenByTokenGivesTheLogitsOfOnePrefill) {
  const std::vector<int32_t> ids = prompt_of(48);
  const Scores whole = reference().score(ids, -1, 64, /*with_mtp=*/true);
  for (const int64_t chunk : {1, 5}) {
    const Scores steps = reference().score(ids, -1, chunk, /*with_mtp=*/true);
    EXPECT_LT(relative_error(steps.logits, whole.logits), 1e-4) << chunk;
    EXPECT_LT(relative_error(steps.mtp_logits, whole.mtp_logits), 1e-4) << chunk;
  }
}

TEST(Generator, LogprobsAreThoseOfTheScoredSequence) {
  GenerationRequest request = greedy(prompt_of(40), 6);
  request.sampling.top_logprobs = 1;
  Generator generator = make_generator();
  const CancelToken cancel;
  std::vector<Sampled> tokens;
  ASSERT_TRUE(generator.generate(
      request,
      [&](const Sampled& sampled) {
        tokens.push_back(sampled);
        return true;
      },
      cancel));
  std::vector<int32_t> ids = request.prompt;
  for (const Sampled& token : tokens) ids.push_back(token.id);
  const Scores scores = reference().score(ids, -1, 64, /*with_mtp=*/false);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto row = scores.logits.begin() +
                     static_cast<std::ptrdiff_t>((39 + i) * static_cast<size_t>(vocab()));
    Sampler sampler(request.sampling, {});
    std::vector<float> logits(row, row + vocab());
    const Sampled expected = sampler.sample(logits);
    EXPECT_EQ(tokens[i].id, expected.id);
    EXPECT_NEAR(tokens[i].logprob, expected.logprob, 1e-4);
  }
}

}  // namespace
}  // namespace longshore::engine
