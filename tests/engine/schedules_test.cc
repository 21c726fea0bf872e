// Random schedules on a tiny model in fp32: whatever arrives together, is chunked, found in the
// cache, preempted or cancelled, every request that is not cancelled gets the tokens that it gets
// alone, and no page is lost.
//
// LONGSHORE_SCHEDULES sets how many schedules run; each has its own seed, which a failure names.
#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/driver.h"

namespace longshore::engine {
namespace {

constexpr int64_t kContext = 256;
constexpr size_t kRequests = 24;

TestModel& reference() {
  static TestModel model(data_path("conformance/conf-bf16"), "reference", 160, /*threads=*/1);
  return model;
}

// Requests whose prompts share beginnings: four families, cut at random lengths, some with an end
// of their own.
struct Library {
  std::vector<GenerationRequest> requests;
  std::vector<std::vector<int32_t>> expected;
};

const Library& library() {
  static const Library made = [] {
    Library all;
    std::mt19937 random(1);
    const auto vocab = static_cast<int32_t>(reference().checkpoint->config().vocab_size);
    for (size_t i = 0; i < kRequests; ++i) {
      std::vector<int32_t> prompt =
          prompt_of(1 + random() % 130, vocab, static_cast<int32_t>(i % 4));
      if (random() % 2 == 0)
        prompt.back() = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
      GenerationRequest request = greedy(std::move(prompt), 1 + random() % 90);
      if (random() % 3 == 0) {
        request.sampling.temperature = 0.8F;
        request.sampling.seed = i;
      }
      all.requests.push_back(std::move(request));
    }
    for (const GenerationRequest& request : all.requests) {
      const auto engine = make_engine(reference(), {.context_length = kContext,
                                                    .max_running = 1,
                                                    .prefill_budget = 128,
                                                    .pages = 4,
                                                    .prefix_cache = false});
      all.expected.push_back(run(*engine, request).ids);
    }
    return all;
  }();
  return made;
}

struct Active {
  size_t which = 0;
  RequestId id = 0;
  bool cancelled = false;
  Generated generated;
};

void run_schedule(uint32_t seed, EngineCounters& totals) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<int64_t>(random() % n); };
  const EngineOptions options{.context_length = kContext,
                              .max_running = 1 + below(8),
                              .prefill_budget = 1 + below(128),
                              .pages = 4 + below(5),
                              .prefix_cache = below(4) != 0};
  const auto engine = make_engine(reference(), options);
  std::vector<std::unique_ptr<Active>> active;
  size_t to_come = 3 + static_cast<size_t>(below(8));
  while (to_come > 0 || !engine->idle()) {
    while (to_come > 0 && below(3) == 0) {
      auto next = std::make_unique<Active>();
      next->which = static_cast<size_t>(below(kRequests));
      const auto id = engine->submit(library().requests[next->which], record(next->generated));
      ASSERT_TRUE(id) << id.error().message;
      next->id = *id;
      active.push_back(std::move(next));
      --to_come;
    }
    if (!active.empty() && below(40) == 0) {
      Active& victim = *active[static_cast<size_t>(below(static_cast<uint32_t>(active.size())))];
      victim.cancelled = victim.cancelled || victim.generated.finishes == 0;
      engine->cancel(victim.id);
    }
    engine->step();
    engine->check_conservation();
  }
  for (const auto& each : active) {
    ASSERT_EQ(each->generated.finishes, 1) << "seed " << seed;
    const std::vector<int32_t>& expected = library().expected[each->which];
    const std::vector<int32_t>& ids = each->generated.ids;
    if (each->cancelled) {
      ASSERT_TRUE(ids.size() <= expected.size() &&
                  std::equal(ids.begin(), ids.end(), expected.begin()))
          << "seed " << seed;
    } else {
      ASSERT_EQ(ids, expected) << "seed " << seed << ", request " << each->which;
    }
  }
  totals.preemptions += engine->counters().preemptions;
  totals.prefix_hits += engine->counters().prefix_hits;
  totals.cancelled += engine->counters().cancelled;
}

TEST(Schedules, OutputsDoNotDependOnTheSchedule) {
  const char* asked = std::getenv("LONGSHORE_SCHEDULES");
  const uint32_t count = asked != nullptr ? static_cast<uint32_t>(std::atoi(asked)) : 200;
  EngineCounters totals;
  for (uint32_t seed = 1; seed <= count && !HasFatalFailure(); ++seed) run_schedule(seed, totals);
  // The schedules must meet what they are there for.
  EXPECT_GT(totals.preemptions, count / 50);
  EXPECT_GT(totals.prefix_hits, count);
  EXPECT_GT(totals.cancelled, count / 40);
}

}  // namespace
}  // namespace longshore::engine
