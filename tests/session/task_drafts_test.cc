// How often the cost model drafts on tasks of the bundled model, whose drafts are nearly always
// right where they have read the prompt: with costs that do not depend on the clock.
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "session/loaded_model.h"
#include "tests/paths.h"
#include "tests/session/nano.h"
#include "text/json_depth.h"

namespace longshore::session {
namespace {

using text::Json;

// A plain step takes 1.03, one with one guess 1.15 of that, with three 1.44.
constexpr double kRow = 0.03;
constexpr double kPass = 0.12;
constexpr int64_t kDeepest = 3;

LoadedModel& nano() {
  static const std::unique_ptr<LoadedModel> loaded = [] {
    LoadOptions options;
    options.cpu_isa = "generic";  // the same guesses on every machine
    options.context_length = 2048;
    options.max_running = 4;
    options.speculative_steps = kDeepest;
    return load_nano(std::move(options));
  }();
  return *loaded;
}

// What a device measures at its start.
engine::MeasuredCosts measured_costs() {
  engine::MeasuredCosts costs;
  for (int64_t rows = 1; rows <= 16; ++rows)
    costs.forward.record(rows, 1 + kRow * static_cast<double>(rows));
  costs.draft.resize(kDeepest);
  for (int64_t depth = 1; depth <= kDeepest; ++depth) {
    for (int64_t sequences = 1; sequences <= 4; ++sequences)
      costs.draft[static_cast<size_t>(depth - 1)].record(sequences,
                                                         kPass * static_cast<double>(depth));
  }
  return costs;
}

// Of the kinds whose answers have about ten tokens and more, in some order.
std::vector<std::vector<int32_t>> tasks(uint32_t seed) {
  static const std::vector<std::vector<int32_t>> all = [] {
    std::vector<std::vector<int32_t>> prompts;
    std::ifstream stream(longshore::source_dir() + "/tests/data/eval/tasks-public.jsonl");
    for (std::string line; std::getline(stream, line);) {
      const Json task = Json::parse(line);
      const std::string kind = task["task"];
      if (kind != "tool_call" && kind != "tool_answer" && kind != "memory" && kind != "chat")
        continue;
      const auto ids = nano().tokenizer->encode(task["prompt_text"].get<std::string>());
      LS_CHECK(ids.has_value());
      prompts.push_back(*ids);
    }
    return prompts;
  }();
  std::vector<std::vector<int32_t>> shuffled = all;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(seed));
  return shuffled;
}

struct Steps {
  double all = 0;
  double drafted = 0;
  double tokens = 0;
};

void set_simulated(bool wrong) {
  engine::Speculation simulated = nano().engine->options().speculation;
  simulated.wrong_drafts = wrong;
  simulated.row_seconds = kRow;
  simulated.pass_seconds = kPass;
  nano().engine->set_speculation(simulated);
}

// What is known of drafts is forgotten, as if the engine had just been made.
void begin_life(bool measured) {
  set_simulated(/*wrong=*/false);
  if (measured) nano().engine->set_policy(engine::SpeculationPolicy(kDeepest, measured_costs()));
}

// Steps in which all decode. In the first `blind` of them the engine leaves speculation: what it
// could have read of the prompts is gone then.
Steps answer(std::span<const std::vector<int32_t>> prompts, int blind = 0) {
  engine::Engine& engine = *nano().engine;
  for (const std::vector<int32_t>& prompt : prompts) {
    engine::GenerationRequest request;
    request.prompt = prompt;
    request.sampling.temperature = 0;
    request.max_tokens = 60;
    request.stop_ids = nano().defaults.eos_ids;
    LS_CHECK(engine.submit(std::move(request), {}).has_value());
  }
  while (!engine.decoding_only()) engine.step();
  Steps steps;
  for (int step = 0; !engine.idle(); ++step) {
    engine.leave_speculation(step < blind);
    engine.step();
    ++steps.all;
    if (engine.last_step().draft_steps > 0) ++steps.drafted;
    steps.tokens += static_cast<double>(engine.last_step().tokens);
  }
  engine.leave_speculation(false);
  engine.clear_prefix_cache();
  return steps;
}

// One answer, or `batch` at once, after another.
Steps answer_all(std::span<const std::vector<int32_t>> prompts, size_t batch = 1) {
  Steps sum;
  for (size_t i = 0; i + batch <= prompts.size(); i += batch) {
    const Steps steps = answer(prompts.subspan(i, batch));
    sum.all += steps.all;
    sum.drafted += steps.drafted;
    sum.tokens += steps.tokens;
  }
  return sum;
}

TEST(TaskDrafts, BeginWithTheVeryFirstStepWhereCostsWereMeasured) {
  for (const uint32_t seed : {1U, 2U, 3U, 4U}) {
    const auto prompts = tasks(seed);
    begin_life(/*measured=*/true);
    const Steps steps = answer_all(std::span(prompts).first(4));
    EXPECT_EQ(steps.drafted, steps.all) << seed;
    EXPECT_GE(steps.tokens, 1.8 * steps.all) << seed;
  }
}

// Seeds with which those guesses are wrong at first.
TEST(TaskDrafts, AreNotJudgedByGuessesThatBeginInTheMiddleOfAnAnswer) {
  for (const uint32_t seed : {1U, 4U}) {
    const auto prompts = tasks(seed);
    begin_life(/*measured=*/true);
    const engine::EngineCounters before = nano().engine->counters();
    for (size_t i = 0; i < 2; ++i) answer(std::span(prompts).subspan(i, 1), /*blind=*/4);
    const engine::EngineCounters& now = nano().engine->counters();
    const auto since = [](const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
      return static_cast<double>(b[0] - (a.empty() ? 0 : a[0]));
    };
    ASSERT_LT(since(before.accepted, now.accepted), 0.8 * since(before.drafted, now.drafted));
    const Steps steps = answer_all(std::span(prompts).subspan(2, 8));
    EXPECT_GE(steps.drafted, 0.95 * steps.all) << seed;
    EXPECT_GE(steps.tokens, 1.8 * steps.all) << seed;
  }
}

TEST(TaskDrafts, ComeSoonWhereCostsMustBeLearnt) {
  const auto prompts = tasks(2);
  begin_life(/*measured=*/false);
  answer_all(std::span(prompts).first(4));
  const Steps steps = answer_all(std::span(prompts).subspan(4, 8));
  EXPECT_GE(steps.drafted, 0.95 * steps.all);
}

TEST(TaskDrafts, ComeToAnswersOfABatchAsWell) {
  const auto prompts = tasks(3);
  begin_life(/*measured=*/true);
  answer(std::span(prompts).first(4), /*blind=*/4);
  const Steps steps = answer_all(std::span(prompts).subspan(4, 16), 4);
  EXPECT_GE(steps.drafted, 0.95 * steps.all);
  EXPECT_GE(steps.tokens, 2 * steps.all);
}

// What was once worthless is looked at where a prompt can be read, and told at once.
TEST(TaskDrafts, AreBackSoonAfterAWorthlessTime) {
  const auto prompts = tasks(3);
  begin_life(/*measured=*/true);
  engine::SpeculationPolicy policy = nano().engine->policy();
  const auto become = [&](bool wrong) {
    policy = nano().engine->policy();
    set_simulated(wrong);
    nano().engine->set_policy(policy);
  };
  become(/*wrong=*/true);
  const Steps wrong = answer_all(std::span(prompts).first(12));
  EXPECT_LE(wrong.drafted, 0.12 * wrong.all);
  become(/*wrong=*/false);
  answer_all(std::span(prompts).subspan(12, 12));
  const Steps steps = answer_all(std::span(prompts).subspan(24, 4));
  EXPECT_GE(steps.drafted, 0.95 * steps.all);
}

}  // namespace
}  // namespace longshore::session
