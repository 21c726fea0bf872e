// The engine's thread under many callers.
#include "engine/loop.h"

#include <atomic>
#include <future>
#include <thread>

#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-bf16"), "reference", 128, /*threads=*/1);
  return model;
}

GenerationRequest request_of(int32_t salt, int64_t max_tokens = 8) {
  return greedy(
      prompt_of(70, static_cast<int32_t>(reference().checkpoint->config().vocab_size), salt),
      max_tokens);
}

EngineOptions options() {
  return {.context_length = 256, .max_running = 4, .prefill_budget = 64, .pages = 24};
}

std::vector<int32_t> alone(const GenerationRequest& request) {
  const auto engine = make_engine(reference(), options());
  return run(*engine, request).ids;
}

TEST(EngineLoop, ManyThreadsGetTheTokensThatTheyGetAlone) {
  std::vector<std::vector<int32_t>> expected;
  for (int32_t i = 0; i < 5; ++i) expected.push_back(alone(request_of(i)));
  const auto engine = make_engine(reference(), options());
  std::atomic<int64_t> steps = 0;
  {
    EngineLoop loop(*engine, [&](const StepReport&) { ++steps; });
    std::vector<std::thread> callers;
    std::atomic<int> wrong = 0;
    for (int32_t caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        for (int32_t i = 0; i < 10; ++i) {
          const int32_t which = (caller + i) % 5;
          Generated generated;
          std::promise<void> done;
          Listener listener = record(generated);
          listener.on_finish = [&](const GenerationResult&) { done.set_value(); };
          if (!loop.submit(request_of(which), std::move(listener))) ++wrong;
          done.get_future().wait();
          if (generated.ids != expected[static_cast<size_t>(which)]) ++wrong;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(wrong, 0);
  }
  EXPECT_EQ(engine->counters().finished, 40);
  EXPECT_GT(steps, 0);
  engine->check_conservation();
}

TEST(EngineLoop, CancelledRequestsFinishOnceAndErrorsComeBackAtOnce) {
  const auto engine = make_engine(reference(), options());
  EngineLoop loop(*engine);
  EXPECT_FALSE(loop.submit(greedy({}, 1), {}));
  std::atomic<int> finishes = 0;
  std::promise<FinishReason> reason;
  std::promise<void> started;
  Listener listener;
  listener.on_start = [&](const GenerationStats&) { started.set_value(); };
  listener.on_finish = [&](const GenerationResult& result) {
    ++finishes;
    reason.set_value(result.reason);
  };
  const auto id = loop.submit(request_of(1, 180), std::move(listener));
  ASSERT_TRUE(id);
  started.get_future().wait();
  loop.cancel(*id);
  loop.cancel(*id);
  loop.cancel(12345);
  EXPECT_EQ(reason.get_future().get(), FinishReason::kCancelled);
  EXPECT_EQ(finishes, 1);
}

TEST(EngineLoop, AFullQueueRefusesWhatCannotRun) {
  EngineOptions chosen = options();
  chosen.max_running = 1;
  chosen.max_queued = 1;
  const auto engine = make_engine(reference(), chosen);
  EngineLoop loop(*engine);
  int accepted = 0;
  bool busy = false;
  for (int32_t i = 0; i < 50; ++i) {
    const auto id = loop.submit(request_of(i, 100), {});
    accepted += id ? 1 : 0;
    if (!id) busy = id.error().kind == ErrorKind::kBusy;
  }
  EXPECT_TRUE(busy);
  EXPECT_GE(accepted, 2) << "one runs and one waits";
  EXPECT_LT(accepted, 10);
}

TEST(EngineLoop, TheEndFinishesEveryRequest) {
  const auto engine = make_engine(reference(), options());
  std::atomic<int> finishes = 0;
  {
    EngineLoop loop(*engine);
    for (int32_t i = 0; i < 12; ++i) {
      Listener listener;
      listener.on_finish = [&](const GenerationResult&) { ++finishes; };
      ASSERT_TRUE(loop.submit(request_of(i, 180), std::move(listener)));
    }
  }
  EXPECT_EQ(finishes, 12);
  EXPECT_TRUE(engine->idle());
}

}  // namespace
}  // namespace longshore::engine
