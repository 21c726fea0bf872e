// The engine on a device whose memory the host cannot read: the same tokens, no upload while
// serving, and an end with an error for everybody when the device fails.
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/loop.h"
#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

using testing::HasSubstr;

const std::string kSmall = data_path("conformance/conf-fp8");

EngineOptions options() {
  return {.context_length = 256, .max_running = 8, .prefill_budget = 48, .pages = 24};
}

std::vector<GenerationRequest> requests(int32_t vocab) {
  std::vector<GenerationRequest> all;
  for (int32_t i = 0; i < 4; ++i) {
    all.push_back(greedy(prompt_of(40 + 25 * i, vocab, i % 2), 12));
    all.back().sampling.top_logprobs = 5;
  }
  return all;
}

std::vector<Generated> serve(TestModel& model, const EngineOptions& chosen) {
  const auto engine = make_engine(model, chosen);
  std::vector<Generated> generated(4);
  const auto all = requests(static_cast<int32_t>(model.model->config().vocab_size));
  for (size_t i = 0; i < all.size(); ++i) {
    LS_CHECK(engine->submit(all[i], record(generated[i])));
    engine->step();  // they join while others run
  }
  while (engine->step()) {
  }
  return generated;
}

// Side by side, chunked, with a shared prefix and short of pages: tokens and logprobs bit for bit.
TEST(DeviceEngine, GivesTheTokensOfTheHostAndNeverUploadsWhileServing) {
  for (const auto& [dir, backend] : {std::pair{kSmall, "reference"}, {nano_path(), "generic"}}) {
    TestModel host(dir, backend, 128, 1);
    TestModel device(dir, std::string("fake:") + backend, 128, 1);
    for (const int64_t pages : {24, 5}) {
      EngineOptions chosen = options();
      chosen.pages = pages;
      const int64_t uploads = device.fake->memory().uploads;
      EXPECT_GT(uploads, 0);
      const std::vector<Generated> expected = serve(host, chosen);
      const std::vector<Generated> actual = serve(device, chosen);
      EXPECT_EQ(device.fake->memory().uploads, uploads) << "the copy engine belongs to the weights";
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(expected[i].ids.size(), 12U);
        EXPECT_EQ(expected[i].ids, actual[i].ids) << i;
        for (size_t t = 0; t < expected[i].tokens.size(); ++t)
          EXPECT_EQ(expected[i].tokens[t].top_logprobs, actual[i].tokens[t].top_logprobs);
      }
    }
  }
}

// Rows whose id the device draws stay there, beside rows whose logits come.
TEST(DeviceEngine, DrawsWhereTheLogitsAreAndFetchesThoseOfOtherRows) {
  TestModel host(nano_path(), "generic", 128, 1);
  TestModel device(nano_path(), "fake:generic", 128, 1);
  const auto vocab = static_cast<int32_t>(host.model->config().vocab_size);
  std::vector<GenerationRequest> all;
  for (int32_t i = 0; i < 7; ++i) all.push_back(greedy(prompt_of(30 + i, vocab, i), 10));
  all[1].sampling.temperature = 0.8F;
  all[1].sampling.seed = 7;
  all[4].sampling = all[1].sampling;
  all[4].sampling.top_p = 0.9F;
  all[5].sampling = all[4].sampling;
  all[5].sampling.top_k = 20;
  all[5].sampling.min_p = 0.01F;
  all[5].sampling.repetition_penalty = 1.1F;  // on the host
  all[2].sampling.repetition_penalty = 1.3F;
  all[3].stop_ids = {1, 2, 3};  // banned at first
  all[3].min_tokens = 4;
  const auto serve_all = [&](TestModel& model) {
    const auto engine = make_engine(model, options());
    std::vector<Generated> generated(all.size());
    for (size_t i = 0; i < all.size(); ++i) LS_CHECK(engine->submit(all[i], record(generated[i])));
    while (engine->step()) {
    }
    return generated;
  };
  const auto expected = serve_all(host);
  const auto actual = serve_all(device);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_GE(expected[i].ids.size(), 4U);
    EXPECT_EQ(expected[i].ids, actual[i].ids) << i;
  }
  EXPECT_GT(device.fake->calls["draw"], 0);
  EXPECT_EQ(host.model->captured_steps(), 0);

  for (const size_t i : {0, 1, 4}) {
    const auto engine = make_engine(device, options());
    const int64_t downloads = device.fake->memory().downloads;
    EXPECT_EQ(run(*engine, all[i]).ids, expected[i].ids);
    EXPECT_EQ(device.fake->memory().downloads - downloads, engine->counters().steps)
        << "one copy of ids a step, and no logits";
  }
}

TEST(DeviceEngine, LogitsThatAreNotFiniteEndAGreedyRequestToo) {
  TestModel device(kSmall, "fake:reference", 128, 1);
  const auto engine = make_engine(device, options());
  device.fake->spoil_logits = true;
  const Generated broken = run(*engine, greedy(prompt_of(20, 50), 4));
  EXPECT_EQ(broken.result.reason, FinishReason::kFault);
  ASSERT_TRUE(broken.result.error);
  EXPECT_THAT(broken.result.error->message, HasSubstr("not finite"));
}

TEST(DeviceEngine, AStepsArraysTravelInOneCopy) {
  TestModel device(kSmall, "fake:reference", 128, 1);
  const auto engine = make_engine(device, options());
  (void)run(*engine, greedy(prompt_of(100, 50), 4));
  EXPECT_EQ(device.fake->calls["copy_ints"], engine->counters().steps);
}

// Wherever in a step the fault comes: everybody hears it once, pages are conserved, whoever comes
// later hears it too.
TEST(DeviceEngine, AFaultEndsEveryRequestWithTheDevicesMessage) {
  for (const int64_t at : {1, 2, 30, 200, 700}) {
    TestModel device(kSmall, "fake:reference", 128, 1);
    EngineOptions chosen = options();
    chosen.max_running = 2;  // so that some wait
    const auto engine = make_engine(device, chosen);
    std::vector<Generated> generated(4);
    const auto all = requests(static_cast<int32_t>(device.model->config().vocab_size));
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_TRUE(engine->submit(all[i], record(generated[i])));
    device.fake->fail_at(at);
    int steps = 0;
    while (engine->step()) {
      engine->check_conservation();
      ASSERT_LT(++steps, 100);
    }
    int faults = 0;
    for (const Generated& each : generated) {
      EXPECT_EQ(each.finishes, 1);
      if (each.result.reason != FinishReason::kFault) continue;
      ++faults;
      ASSERT_TRUE(each.result.error);
      EXPECT_EQ(each.result.error->kind, ErrorKind::kDevice);
      EXPECT_THAT(each.result.error->message, HasSubstr("told to fail"));
    }
    EXPECT_GE(faults, 2) << at;
    EXPECT_TRUE(engine->idle());
    EXPECT_EQ(engine->counters().free_pages, chosen.pages) << "nothing of it is kept";
    ASSERT_TRUE(engine->counters().fault);
    const Generated late = run(*engine, greedy(prompt_of(20, 50), 4));
    EXPECT_EQ(late.result.reason, FinishReason::kFault);
    EXPECT_TRUE(late.ids.empty());
  }
}

TEST(DeviceEngine, TheLoopTellsOfAFaultAndGoesOnAnswering) {
  TestModel device(kSmall, "fake:reference", 128, 1);
  const auto engine = make_engine(device, options());
  device.fake->fail_at(300);
  EngineLoop loop(*engine);
  for (int i = 0; i < 3; ++i) {
    std::promise<GenerationResult> done;
    Listener listener;
    listener.on_finish = [&](const GenerationResult& result) { done.set_value(result); };
    ASSERT_TRUE(loop.submit(greedy(prompt_of(60, 50, i), 200), std::move(listener)));
    const GenerationResult result = done.get_future().get();
    EXPECT_EQ(result.reason, FinishReason::kFault);
  }
  while (!loop.counters().fault) std::this_thread::yield();
  EXPECT_EQ(loop.counters().fault->kind, ErrorKind::kDevice);
}

}  // namespace
}  // namespace longshore::engine
