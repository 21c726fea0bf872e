// Random schedules on a tiny model in fp32: whatever arrives together, is chunked, found in the
// cache, preempted, cancelled, stopped by its listener or late, every request gets the tokens that
// it gets alone, all of them or as many as came until it was ended, and no page is lost.
//
// The same with drafts of the MTP layer, right ones and wrong ones: no token may differ from plain
// decoding's. The same again on a device whose prompts stream experts, in passes that pause for
// those who decode, with a budget that changes and interrupts.
//
// LONGSHORE_SCHEDULES sets how many schedules run; each has its own seed, which a failure names.
#include <chrono>
#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "tests/engine/streaming.h"

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
      request.cache_salt = random() % 2;
      all.requests.push_back(std::move(request));
    }
    for (GenerationRequest& request : all.requests) {
      const auto engine = make_engine(reference(), {.context_length = kContext,
                                                    .max_running = 1,
                                                    .prefill_budget = 128,
                                                    .pages = 4,
                                                    .prefix_cache = false});
      std::vector<int32_t> ids = run(*engine, request).ids;
      if (random() % 6 == 0) {
        // An end somewhere in the middle.
        request.stop_ids = {ids[random() % ids.size()]};
        ids = run(*engine, request).ids;
      }
      all.expected.push_back(std::move(ids));
    }
    return all;
  }();
  return made;
}

struct Active {
  size_t which = 0;
  RequestId id = 0;
  bool cancelled = false;
  size_t most = SIZE_MAX;  // the listener wants no more tokens
  Generated generated;
};

// The request, and sometimes a reason to end before its time.
Result<RequestId> submit(Engine& engine, Active& active, std::mt19937& random) {
  GenerationRequest request = library().requests[active.which];
  if (random() % 30 == 0) {
    request.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(random() % 3);
  }
  if (random() % 20 == 0) active.most = 1 + random() % 40;
  Listener listener = record(active.generated);
  listener.on_token = [&active, next = std::move(listener.on_token)](const Sampled& sampled) {
    return next(sampled) && active.generated.ids.size() < active.most;
  };
  return engine.submit(std::move(request), std::move(listener));
}

// What the way it ended lets the test expect of its tokens.
void check_output(const Active& each, uint32_t seed) {
  ASSERT_EQ(each.generated.finishes, 1) << "seed " << seed;
  std::vector<int32_t> expected = library().expected[each.which];
  const std::vector<int32_t>& ids = each.generated.ids;
  switch (each.generated.result.reason) {
    case FinishReason::kCancelled:
      ASSERT_TRUE(each.cancelled) << "seed " << seed;
      [[fallthrough]];
    case FinishReason::kDeadline:
      ASSERT_LE(ids.size(), expected.size()) << "seed " << seed;
      expected.resize(ids.size());
      break;
    case FinishReason::kCallback:
      expected.resize(std::min(expected.size(), each.most));
      break;
    default:
      break;
  }
  ASSERT_EQ(ids, expected) << "seed " << seed << ", request " << each.which;
}

struct Setting {
  TestModel* model;
  bool speculates = false;
  bool pauses = false;
};

// Now and then what a server's user may do at any time.
void disturb(TestModel& test, Engine& engine, std::mt19937& random) {
  static CancelToken stopped;
  stopped.cancel();
  engine.set_interrupt(random() % 12 == 0 ? &stopped : nullptr);
  offload::ExpertStore& store = test.model->experts();
  if (random() % 20 != 0) return;
  const auto slots = static_cast<int64_t>(random() % static_cast<uint64_t>(store.slots() + 1));
  ASSERT_TRUE(store.limit_slots(slots * offload::DeviceBank::block_bytes(store.experts())));
}

void check_experts(const TestModel& test) {
  const offload::ExpertCounters& c = test.model->experts().counters();
  const int64_t seen = c.hits + c.fetched + c.computed_on_cpu + c.shared + c.abandoned;
  // In a pause some of the layer's may still have to come.
  if (test.model->in_pass()) {
    ASSERT_GE(c.routed_experts, seen);
  } else {
    ASSERT_EQ(c.routed_experts, seen);
  }
  test.model->experts().device()->slots().check_conservation(/*idle=*/!test.model->in_pass());
}

void run_schedule(uint32_t seed, EngineCounters& totals, const Setting& setting) {
  std::mt19937 random(seed);
  const auto below = [&](uint32_t n) { return static_cast<int64_t>(random() % n); };
  const EngineOptions options{.context_length = kContext,
                              .max_running = 1 + below(8),
                              .prefill_budget = 1 + below(128),
                              .pages = 4 + below(3),
                              .prefix_cache = below(4) != 0};
  EngineOptions chosen = options;
  if (setting.pauses) {
    chosen.beside_share = below(4) == 0 ? 0 : kAfterEveryLayer;
    // Steps from shorter than an expert's copy to longer than a layer's.
    set_times(*setting.model, static_cast<double>(below(40)) * kCopySeconds / 4);
  }
  if (setting.speculates) {
    chosen.speculation = {.mtp = setting.model->mtp.get(),
                          .max_steps = 1 + below(3),
                          .always = below(3) != 0,
                          .forced_acceptance = -1,
                          .wrong_drafts = below(4) == 0,
                          .row_seconds = 0.05,
                          .pass_seconds = 0.1};
  }
  const auto engine = make_engine(*setting.model, chosen);
  std::vector<std::unique_ptr<Active>> active;
  size_t to_come = 3 + static_cast<size_t>(below(8));
  while (to_come > 0 || !engine->idle()) {
    while (to_come > 0 && below(3) == 0) {
      auto next = std::make_unique<Active>();
      next->which = static_cast<size_t>(below(kRequests));
      const auto id = submit(*engine, *next, random);
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
    if (setting.pauses) disturb(*setting.model, *engine, random);
    engine->step();
    engine->check_conservation();
    if (setting.pauses) check_experts(*setting.model);
  }
  for (const auto& each : active) check_output(*each, seed);
  totals.preemptions += engine->counters().preemptions;
  totals.prefix_hits += engine->counters().prefix_hits;
  totals.cancelled += engine->counters().cancelled;
  totals.paused_passes += engine->counters().paused_passes;
  totals.beside_steps += engine->counters().beside_steps;
  for (const int64_t count : engine->counters().drafted) totals.speculated += count;
  for (const int64_t count : engine->counters().accepted) totals.decode_output += count;
}

// The schedules must meet what they are there for; a handful may miss what is rare.
EngineCounters run_schedules(const Setting& setting, uint32_t schedules = 200) {
  const char* asked = std::getenv("LONGSHORE_SCHEDULES");
  // Drafts take several times as long.
  const uint32_t usual = setting.speculates ? std::min<uint32_t>(schedules, 60) : schedules;
  const uint32_t count = asked != nullptr ? static_cast<uint32_t>(std::atoi(asked)) : usual;
  EngineCounters totals;
  for (uint32_t seed = 1; seed <= count && !testing::Test::HasFatalFailure(); ++seed)
    run_schedule(seed, totals, setting);
  if (count < 100) return totals;
  EXPECT_GT(totals.preemptions, count / 50);
  EXPECT_GT(totals.prefix_hits, count);
  EXPECT_GT(totals.cancelled, count / 40);
  return totals;
}

TEST(Schedules, OutputsDoNotDependOnTheSchedule) {
  run_schedules({&reference()});
}

TEST(Schedules, OutputsDoNotDependOnDrafts) {
  const EngineCounters totals = run_schedules({&reference(), /*speculates=*/true});
  EXPECT_GT(totals.speculated, 20);
  EXPECT_GT(totals.decode_output, 0) << "no draft was right: nothing was accepted";
}

TEST(Schedules, OutputsDoNotDependOnWhoDecodesBetweenThePartsOfAPass) {
  for (const double share : {0.0, 0.3}) {
    TestModel model = streaming_model(data_path("conformance/conf-bf16"), share);
    const EngineCounters totals =
        run_schedules({&model, /*speculates=*/false, /*pauses=*/true}, 30);
    EXPECT_GT(totals.paused_passes, 20);
    EXPECT_GE(totals.beside_steps, totals.paused_passes);
  }
}

TEST(Schedules, OutputsDoNotDependOnDraftsBetweenThePartsOfAPass) {
  TestModel model = streaming_model(data_path("conformance/conf-bf16"), 0.3, -1, true,
                                    "fake:reference", /*ring=*/4);
  const EngineCounters totals = run_schedules({&model, /*speculates=*/true, /*pauses=*/true}, 30);
  EXPECT_GT(totals.paused_passes, 20);
  EXPECT_GE(totals.beside_steps, totals.paused_passes);
  EXPECT_GT(totals.decode_output, 0) << "no draft was right: nothing was accepted";
}

}  // namespace
}  // namespace longshore::engine
