// The engine on a small checkpoint in fp32, one request after the other and a few side by side:
// what is cached, chunked, batched or stopped must not change the tokens. schedules_test.cc does
// the same with random schedules.
#include "engine/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

using testing::HasSubstr;

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-fp8"), "reference", 128, /*threads=*/1);
  return model;
}

int32_t vocab() {
  return static_cast<int32_t>(reference().checkpoint->config().vocab_size);
}

std::vector<int32_t> prompt(int64_t tokens, int32_t salt = 0) {
  return prompt_of(tokens, vocab(), salt);
}

EngineOptions options() {
  return {.context_length = 256, .max_running = 8, .prefill_budget = 64, .pages = 40};
}

Generated fresh(const GenerationRequest& request) {
  const auto engine = make_engine(reference(), options());
  return run(*engine, request);
}

TEST(Engine, EveryPrefillBudgetGivesTheSameTokens) {
  const GenerationRequest request = greedy(prompt(100), 12);
  const std::vector<int32_t> whole = fresh(request).ids;
  ASSERT_EQ(whole.size(), 12U);
  for (const int64_t budget : {1, 2, 7, 33, 63, 65, 99, 100, 101, 120}) {
    EngineOptions chosen = options();
    chosen.prefill_budget = budget;
    EXPECT_EQ(run(*make_engine(reference(), chosen), request).ids, whole) << "budget " << budget;
  }
}

TEST(Engine, ASharedPrefixOfWholePagesIsReusedAndChangesNothing) {
  const auto engine = make_engine(reference(), options());
  const Generated first = run(*engine, greedy(prompt(150), 8));
  EXPECT_EQ(first.result.stats.cached_tokens, 0);

  std::vector<int32_t> longer = prompt(150);
  longer.insert(longer.end(), first.ids.begin(), first.ids.end());
  const std::vector<int32_t> more = prompt(40, 3);
  longer.insert(longer.end(), more.begin(), more.end());
  const Generated second = run(*engine, greedy(longer, 8));
  EXPECT_EQ(second.result.stats.cached_tokens, 128);
  EXPECT_EQ(second.result.stats.prompt_tokens, 198);
  EXPECT_EQ(second.ids, fresh(greedy(longer, 8)).ids);

  std::vector<int32_t> branch = prompt(100);
  branch.back() = (branch.back() + 1) % vocab();
  const Generated third = run(*engine, greedy(branch, 8));
  EXPECT_EQ(third.result.stats.cached_tokens, 64);
  EXPECT_EQ(third.ids, fresh(greedy(branch, 8)).ids);
}

TEST(Engine, GeneratedTokensArePartOfTheCachedPrefix) {
  const auto engine = make_engine(reference(), options());
  const Generated first = run(*engine, greedy(prompt(60), 70));
  std::vector<int32_t> longer = prompt(60);
  longer.insert(longer.end(), first.ids.begin(), first.ids.end());
  EXPECT_EQ(run(*engine, greedy(longer, 2)).result.stats.cached_tokens, 128);
}

TEST(Engine, ThePromptsLastTokenIsAlwaysComputed) {
  const auto engine = make_engine(reference(), options());
  const GenerationRequest request = greedy(prompt(128), 5);
  const Generated first = run(*engine, request);
  const Generated again = run(*engine, request);
  EXPECT_EQ(again.result.stats.cached_tokens, 64)
      << "the second page is full, but its last token must be run";
  EXPECT_EQ(again.ids, first.ids);
}

TEST(Engine, PrefixesAreSharedWithinOneSaltOnly) {
  const auto engine = make_engine(reference(), options());
  GenerationRequest request = greedy(prompt(100), 2);
  const Generated first = run(*engine, request);
  request.cache_salt = 7;
  EXPECT_EQ(run(*engine, request).result.stats.cached_tokens, 0);
  EXPECT_EQ(run(*engine, request).result.stats.cached_tokens, 64);
}

TEST(Engine, WithoutAPrefixCacheNothingIsReused) {
  EngineOptions chosen = options();
  chosen.prefix_cache = false;
  const auto engine = make_engine(reference(), chosen);
  const GenerationRequest request = greedy(prompt(100), 2);
  EXPECT_EQ(run(*engine, request).ids, run(*engine, request).ids);
  EXPECT_EQ(run(*engine, request).result.stats.cached_tokens, 0);
  EXPECT_EQ(engine->counters().free_pages, 40);
}

TEST(Engine, RequestsThatArriveTogetherComputeASharedPrefixOnce) {
  const auto engine = make_engine(reference(), options());
  std::vector<Generated> generated(4);
  for (Generated& each : generated)
    ASSERT_TRUE(engine->submit(greedy(prompt(150), 6), record(each)));
  while (engine->step()) {
  }
  EXPECT_EQ(engine->counters().prompt_tokens, 150 + 3 * (150 - 128));
  for (const Generated& each : generated) EXPECT_EQ(each.ids, generated[0].ids);
  EXPECT_EQ(generated[0].ids, fresh(greedy(prompt(150), 6)).ids);
}

TEST(Engine, AShortPromptDoesNotWaitForALongOne) {
  EngineOptions chosen = options();
  chosen.prefill_budget = 16;
  const auto engine = make_engine(reference(), chosen);
  Generated longer;
  Generated shorter;
  ASSERT_TRUE(engine->submit(greedy(prompt(200), 4), record(longer)));
  engine->step();
  ASSERT_TRUE(engine->submit(greedy(prompt(8, 5), 1), record(shorter)));
  engine->step();
  EXPECT_EQ(shorter.finishes, 1);
  EXPECT_EQ(longer.ids.size(), 0U);
  while (engine->step()) {
  }
  EXPECT_EQ(longer.ids, fresh(greedy(prompt(200), 4)).ids);
}

TEST(Engine, DecodingAdvancesInEveryStepOfALongPrefill) {
  EngineOptions chosen = options();
  chosen.prefill_budget = 16;
  const auto engine = make_engine(reference(), chosen);
  Generated decoding;
  Generated prefilling;
  ASSERT_TRUE(engine->submit(greedy(prompt(8), 30), record(decoding)));
  engine->step();
  ASSERT_TRUE(engine->submit(greedy(prompt(200, 5), 1), record(prefilling)));
  for (size_t step = 0; step < 10; ++step) {
    engine->step();
    EXPECT_EQ(decoding.ids.size(), step + 2);
    EXPECT_LE(engine->last_step().prefill_tokens, 16);
  }
  while (engine->step()) {
  }
}

TEST(Engine, WhenPagesRunOutTheYoungestIsComputedAgainAndNothingIsLost) {
  EngineOptions chosen = options();
  chosen.pages = 6;
  const auto engine = make_engine(reference(), chosen);
  std::vector<Generated> generated(3);
  for (int32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(
        engine->submit(greedy(prompt(50, i), 100), record(generated[static_cast<size_t>(i)])));
  }
  while (engine->step()) engine->check_conservation();
  EXPECT_GT(engine->counters().preemptions, 0);
  EXPECT_EQ(generated[0].result.stats.preemptions, 0) << "the oldest stays";
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(generated[static_cast<size_t>(i)].ids, fresh(greedy(prompt(50, i), 100)).ids) << i;
  }
}

TEST(Engine, SamplingWithASeedDoesNotDependOnTheBatchOrOnPreemption) {
  EngineOptions chosen = options();
  chosen.pages = 6;
  const auto engine = make_engine(reference(), chosen);
  std::vector<GenerationRequest> requests;
  for (int32_t i = 0; i < 3; ++i) {
    requests.push_back(greedy(prompt(50, i), 100));
    requests.back().sampling.temperature = 1;
    requests.back().sampling.frequency_penalty = 0.5F;
    requests.back().sampling.seed = static_cast<uint64_t>(i);
  }
  std::vector<Generated> generated(3);
  for (size_t i = 0; i < 3; ++i) ASSERT_TRUE(engine->submit(requests[i], record(generated[i])));
  while (engine->step()) {
  }
  EXPECT_GT(engine->counters().preemptions, 0);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(generated[i].ids, fresh(requests[i]).ids) << i;
}

TEST(Engine, MaxTokensAndTheContextLimitTheLength) {
  EngineOptions chosen = options();
  chosen.context_length = 48;
  const auto engine = make_engine(reference(), chosen);
  for (const int64_t limit : {0, 1, 5}) {
    const Generated limited = run(*engine, greedy(prompt(40), limit));
    EXPECT_EQ(static_cast<int64_t>(limited.ids.size()), limit);
    EXPECT_EQ(limited.result.stats.output_tokens, limit);
    EXPECT_EQ(limited.result.reason, FinishReason::kLength);
    EXPECT_EQ(limited.finishes, 1);
  }
  EXPECT_EQ(run(*engine, greedy(prompt(40), -1)).ids.size(), 8U) << "as many as the context holds";
  EXPECT_EQ(run(*engine, greedy(prompt(40), 100)).ids.size(), 8U);
  EXPECT_EQ(run(*engine, greedy(prompt(47), -1)).ids.size(), 1U);
}

TEST(Engine, StopIdsEndTheOutputUnlessIgnored) {
  GenerationRequest request = greedy(prompt(40), 10);
  const std::vector<int32_t> free_run = fresh(request).ids;
  request.stop_ids = {free_run[3]};
  const auto at = std::find(free_run.begin(), free_run.end(), free_run[3]) + 1;
  const Generated stopped = fresh(request);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(free_run.begin(), at));
  EXPECT_EQ(stopped.result.reason, FinishReason::kStopId);
  request.ignore_stop_ids = true;
  const Generated ignored = fresh(request);
  EXPECT_EQ(ignored.ids, free_run);
  EXPECT_EQ(ignored.result.reason, FinishReason::kLength);
}

TEST(Engine, StopIdsCannotComeBeforeMinTokens) {
  GenerationRequest request = greedy(prompt(40), 10);
  request.stop_ids = {fresh(request).ids[0]};
  request.min_tokens = 4;
  const std::vector<int32_t> ids = fresh(request).ids;
  ASSERT_GE(ids.size(), 4U);
  EXPECT_EQ(std::find(ids.begin(), ids.begin() + 4, request.stop_ids[0]), ids.begin() + 4);
  request.min_tokens = 0;
  EXPECT_EQ(fresh(request).ids, request.stop_ids);
}

TEST(Engine, TheListenerStops) {
  const auto engine = make_engine(reference(), options());
  Generated generated;
  Listener listener = record(generated);
  listener.on_token = [&](const Sampled& sampled) {
    generated.ids.push_back(sampled.id);
    return generated.ids.size() < 3;
  };
  ASSERT_TRUE(engine->submit(greedy(prompt(20), 10), std::move(listener)));
  while (engine->step()) {
  }
  EXPECT_EQ(generated.ids.size(), 3U);
  EXPECT_EQ(generated.result.reason, FinishReason::kCallback);
}

TEST(Engine, CancellationFreesThePagesInTheNextStep) {
  EngineOptions chosen = options();
  chosen.prefix_cache = false;
  const auto engine = make_engine(reference(), chosen);
  Generated cancelled;
  Generated other;
  const auto id = engine->submit(greedy(prompt(60), 100), record(cancelled));
  ASSERT_TRUE(id);
  ASSERT_TRUE(engine->submit(greedy(prompt(60, 2), 3), record(other)));
  for (int i = 0; i < 3; ++i) engine->step();
  const int64_t used = 40 - engine->counters().free_pages;
  EXPECT_GT(used, 0);
  engine->cancel(*id);
  engine->step();
  EXPECT_EQ(cancelled.finishes, 1);
  EXPECT_EQ(cancelled.result.reason, FinishReason::kCancelled);
  const size_t tokens = cancelled.ids.size();
  while (engine->step()) {
  }
  EXPECT_EQ(cancelled.ids.size(), tokens);
  EXPECT_EQ(other.ids, fresh(greedy(prompt(60, 2), 3)).ids);
  EXPECT_EQ(engine->counters().free_pages, 40);
  engine->cancel(*id);  // has ended: nothing happens
}

TEST(Engine, ARequestThatWaitsCanBeCancelled) {
  EngineOptions chosen = options();
  chosen.max_running = 1;
  const auto engine = make_engine(reference(), chosen);
  Generated running;
  Generated waiting;
  ASSERT_TRUE(engine->submit(greedy(prompt(20), 10), record(running)));
  const auto id = engine->submit(greedy(prompt(20, 3), 10), record(waiting));
  ASSERT_TRUE(id);
  engine->step();
  engine->cancel(*id);
  engine->step();
  EXPECT_EQ(waiting.finishes, 1);
  EXPECT_EQ(waiting.starts, 0);
  EXPECT_EQ(waiting.result.reason, FinishReason::kCancelled);
  while (engine->step()) {
  }
  EXPECT_EQ(running.ids.size(), 10U);
}

TEST(Engine, ADeadlineEndsTheRequest) {
  const auto engine = make_engine(reference(), options());
  GenerationRequest request = greedy(prompt(20), 100);
  request.deadline = std::chrono::steady_clock::now();
  const Generated late = run(*engine, request);
  EXPECT_EQ(late.result.reason, FinishReason::kDeadline);
  EXPECT_TRUE(late.ids.empty());
}

TEST(Engine, AFullQueueRefuses) {
  EngineOptions chosen = options();
  chosen.max_queued = 2;
  const auto engine = make_engine(reference(), chosen);
  Generated generated;
  ASSERT_TRUE(engine->submit(greedy(prompt(20), 1), record(generated)));
  ASSERT_TRUE(engine->submit(greedy(prompt(20), 1), record(generated)));
  const auto refused = engine->submit(greedy(prompt(20), 1), record(generated));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kBusy);
  while (engine->step()) {
  }
  EXPECT_EQ(generated.finishes, 2);
}

TEST(Engine, RefusesBadRequestsByName) {
  EngineOptions chosen = options();
  chosen.context_length = 32;
  const auto engine = make_engine(reference(), chosen);
  const auto refused = [&](const GenerationRequest& request) {
    const auto result = engine->submit(request, {});
    if (result) return std::string("accepted");
    EXPECT_EQ(result.error().kind, ErrorKind::kUsage);
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
    return result.error().message;
  };
  EXPECT_THAT(refused(greedy({}, 1)), HasSubstr("prompt is empty"));
  EXPECT_THAT(refused(greedy(prompt(32), 1)), HasSubstr("32 tokens and the context holds 32"));
  EXPECT_THAT(refused(greedy({1, vocab()}, 1)), HasSubstr("the prompt has token id"));
  EXPECT_THAT(refused(greedy({-1}, 1)), HasSubstr("the prompt has token id -1"));
  EXPECT_THAT(refused(greedy({1}, -2)), HasSubstr("max_tokens is -2"));
  GenerationRequest request = greedy({1}, 1);
  request.min_tokens = -1;
  EXPECT_THAT(refused(request), HasSubstr("min_tokens is -1"));
  request = greedy({1}, 1);
  request.stop_ids = {vocab()};
  EXPECT_THAT(refused(request), HasSubstr("the stop ids have token id"));
  request = greedy({1}, 1);
  request.sampling.top_p = 0;
  EXPECT_THAT(refused(request), HasSubstr("top_p is 0"));
}

TEST(Engine, ACacheSmallerThanOneContextIsRefused) {
  EngineOptions chosen = options();
  chosen.pages = 3;
  const auto made =
      Engine::create(*reference().model, reference().layout, reference().pool, chosen);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr("--max-total-tokens"));
}

TEST(Engine, LogitsThatAreNotFiniteEndTheRequestWithAnError) {
  TestModel broken(data_path("conformance/conf-fp8"), "reference", 128, /*threads=*/1);
  // As a damaged file would have it.
  auto* norm = const_cast<float*>(broken.model->weights().norm);
  norm[3] = std::numeric_limits<float>::quiet_NaN();
  const auto engine = make_engine(broken, options());
  const Generated generated = run(*engine, greedy(prompt(20), 5));
  EXPECT_EQ(generated.result.reason, FinishReason::kFault);
  ASSERT_TRUE(generated.result.error);
  EXPECT_THAT(generated.result.error->message, HasSubstr("not finite"));
  EXPECT_TRUE(generated.ids.empty());
}

TEST(Engine, WhatAFaultHasWrittenIsNotKept) {
  TestModel broken(data_path("conformance/conf-fp8"), "reference", 128, /*threads=*/1);
  auto* norm = const_cast<float*>(broken.model->weights().norm);
  const float sound = std::exchange(norm[3], std::numeric_limits<float>::infinity());
  const auto engine = make_engine(broken, options());
  EXPECT_EQ(run(*engine, greedy(prompt(150), 5)).result.reason, FinishReason::kFault);
  EXPECT_EQ(engine->counters().cached_pages, 0);
  norm[3] = sound;
  const Generated after = run(*engine, greedy(prompt(150), 5));
  EXPECT_EQ(after.result.stats.cached_tokens, 0);
  EXPECT_EQ(after.ids, fresh(greedy(prompt(150), 5)).ids);
}

TEST(Engine, DecodingTokenByTokenGivesTheLogitsOfOnePrefill) {
  const std::vector<int32_t> ids = prompt(48);
  const Scores whole = reference().score(ids, -1, 64, /*with_mtp=*/true);
  for (const int64_t chunk : {1, 5}) {
    const Scores steps = reference().score(ids, -1, chunk, /*with_mtp=*/true);
    EXPECT_LT(relative_error(steps.logits, whole.logits), 1e-4) << chunk;
    EXPECT_LT(relative_error(steps.mtp_logits, whole.mtp_logits), 1e-4) << chunk;
  }
}

// Cancels in the middle of a forward pass and remembers what came after.
struct CancelsAfterTheFirstLayer : model::Observer {
  void on_hidden(int64_t layer, ConstMatrixView) override {
    last = layer;
    if (layer == 0) token.cancel();
  }
  CancelToken token;
  int64_t last = -1;
};

TEST(Engine, ACancelledForwardPassEndsBeforeItsNextLayer) {
  CancelsAfterTheFirstLayer observer;
  const std::vector<int32_t> ids = prompt(100);
  ScoreRequest request{.ids = ids, .chunk = 100, .observer = &observer};
  const auto scores = score(*reference().model, reference().layout, request, observer.token);
  ASSERT_FALSE(scores);
  EXPECT_EQ(scores.error().kind, ErrorKind::kCancelled);
  EXPECT_EQ(observer.last, 0) << "of " << reference().checkpoint->config().num_layers << " layers";
}

TEST(Engine, AnInterruptedStepChangesNothing) {
  const GenerationRequest request = greedy(prompt(100), 12);
  const std::vector<int32_t> whole = fresh(request).ids;
  const auto engine = make_engine(reference(), options());
  CancelToken token;
  engine->set_interrupt(&token);
  Generated generated;
  ASSERT_TRUE(engine->submit(request, record(generated)));
  bool working = true;
  for (int i = 0; working; ++i) {  // before every step that counts, one that is cut
    token.cancel();
    ASSERT_TRUE(engine->step());
    EXPECT_EQ(engine->last_step().prefill_tokens + engine->last_step().decode_tokens, 0);
    engine->check_conservation();
    token.reset();
    working = engine->step() && !engine->idle();
    ASSERT_LT(i, 100);
  }
  EXPECT_EQ(generated.ids, whole);
  EXPECT_EQ(generated.starts, 1);
  EXPECT_EQ(generated.finishes, 1);
  EXPECT_EQ(engine->counters().prompt_tokens, 100);
  EXPECT_EQ(engine->counters().generated_tokens, 12);
}

TEST(Engine, LogprobsAreThoseOfTheScoredSequence) {
  GenerationRequest request = greedy(prompt(40), 6);
  request.sampling.top_logprobs = 1;
  const Generated generated = fresh(request);
  std::vector<int32_t> ids = request.prompt;
  ids.insert(ids.end(), generated.ids.begin(), generated.ids.end());
  const Scores scores = reference().score(ids, -1, 64, /*with_mtp=*/false);
  for (size_t i = 0; i < generated.tokens.size(); ++i) {
    const auto row = scores.logits.begin() +
                     static_cast<std::ptrdiff_t>((39 + i) * static_cast<size_t>(vocab()));
    Sampler sampler(request.sampling, {});
    std::vector<float> logits(row, row + vocab());
    const Sampled expected = sampler.sample(logits);
    EXPECT_EQ(generated.tokens[i].id, expected.id);
    EXPECT_NEAR(generated.tokens[i].logprob, expected.logprob, 1e-4);
  }
}

}  // namespace
}  // namespace longshore::engine
