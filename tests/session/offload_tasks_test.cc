// The bundled model's answers to the public tasks in reference arithmetic: the same whether all
// experts are on the device or some are, the rest split between wire and CPU.
//
// LONGSHORE_TASKS sets how many tasks are asked, spread over the file.
#include <cstdlib>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/engine/driver.h"
#include "tests/engine/streaming.h"
#include "tests/paths.h"
#include "text/tokenizer.h"

namespace longshore::session {
namespace {

using nlohmann::json;

constexpr int64_t kContext = 512;

struct Task {
  std::string name;
  std::vector<int32_t> prompt;
  std::vector<int32_t> stop;
  std::string expected;
};

// In the file's order, of every kind: those whose prompt and answer fit the context.
std::vector<Task> read_tasks(const text::Tokenizer& tokenizer, size_t wanted, int64_t context) {
  std::ifstream stream(data_path("eval/tasks-public.jsonl"));
  std::map<std::string, std::vector<Task>> kinds;
  size_t all = 0;
  for (std::string line; std::getline(stream, line);) {
    const json task = json::parse(line);
    auto prompt = tokenizer.encode(task["prompt_text"].get<std::string>());
    const auto stop = tokenizer.id_of(task["stop"].get<std::string>());
    LS_CHECK(prompt.has_value() && stop.has_value());
    if (static_cast<int64_t>(prompt->size()) > context - 64) continue;
    const std::string kind = task["task"];
    kinds[kind].push_back({kind, *prompt, {*stop}, task["expected_text"]});
    ++all;
  }
  std::vector<Task> chosen;
  for (size_t i = 0; chosen.size() < std::min(wanted, all); ++i) {
    for (auto& [kind, tasks] : kinds) {
      if (i < tasks.size() && chosen.size() < wanted) chosen.push_back(tasks[i]);
    }
  }
  return chosen;
}

std::vector<engine::Generated> answers(TestModel& model, const std::vector<Task>& tasks,
                                       int64_t context) {
  const auto engine = engine::make_engine(model, {.context_length = context,
                                                  .max_running = 8,
                                                  .prefill_budget = 128,
                                                  .beside_share = engine::kAfterEveryLayer});
  LS_CHECK(model.model->capture_steps(engine->caches(), {}).has_value());
  std::vector<engine::Generated> generated(tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i) {
    engine::GenerationRequest request = engine::greedy(tasks[i].prompt, 64);
    request.stop_ids = tasks[i].stop;
    LS_CHECK(engine->submit(request, engine::record(generated[i])).has_value());
  }
  while (engine->step()) {
  }
  return generated;
}

TEST(OffloadedTasks, HaveTheResidentRunsAnswersAtAMixedSetting) {
  const char* asked = std::getenv("LONGSHORE_TASKS");
  const size_t wanted = asked == nullptr ? 24 : std::strtoul(asked, nullptr, 10);
  const int64_t context = asked == nullptr ? kContext : 4096;
  const auto tokenizer = text::Tokenizer::load(nano_path() + "/tokenizer.json");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::vector<Task> tasks = read_tasks(*tokenizer, wanted, context);
  ASSERT_EQ(tasks.size(), wanted);

  TestModel resident(nano_path(), "fake:reference", 136, 2, 8);
  const auto expected = answers(resident, tasks, context);
  offload::StoreOptions options;
  options.budget_bytes = budget_for(nano_path(), 0.4);
  options.ring = 12;
  options.decode_tokens = 8;
  options.forced_fetch = 0.5;
  options.costs = {.wire_bytes_per_second = 1e10, .cpu_seconds_one_token = 1e-6};
  TestModel mixed(nano_path(), "fake:reference", 136, 2, 8, options, /*with_cpu=*/true);
  const auto actual = answers(mixed, tasks, context);

  size_t right = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(actual[i].ids, expected[i].ids) << tasks[i].name << " " << i;
    EXPECT_EQ(actual[i].finishes, 1);
    const std::string text = tokenizer->decode(expected[i].ids, /*skip_special=*/true);
    right += text == tasks[i].expected ? 1 : 0;
  }
  EXPECT_GE(right, tasks.size() - 1) << "they are answers";
  const offload::ExpertCounters& used = mixed.model->experts().counters();
  EXPECT_GT(used.hits, 0);
  EXPECT_GT(used.fetched, 0);
  EXPECT_GT(used.computed_on_cpu, 0);
  EXPECT_GT(used.shared, 0);
  EXPECT_GT(mixed.model->replayed_steps(), 0);
}

}  // namespace
}  // namespace longshore::session
