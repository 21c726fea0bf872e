#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "session/chat_request.h"
#include "session/completion.h"
#include "text/json_depth.h"

namespace longshore::cli {
namespace {

using text::Json;

struct Flags {
  ModelFlags model;
  std::string tasks;
  int64_t limit = -1;
  bool as_json = false;
};

struct Score {
  int64_t n = 0;
  int64_t correct = 0;
};

Result<std::vector<Json>> read_tasks(const std::string& path, int64_t limit) {
  LS_TRY(const std::string content, read_input(path));
  std::vector<Json> tasks;
  int64_t number = 0;
  for (size_t begin = 0;
       begin < content.size() && (limit < 0 || static_cast<int64_t>(tasks.size()) < limit);) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.empty()) continue;
    if (text::nests_deeper(line, text::kMaxJsonDepth)) {
      return fail(ErrorKind::kUsage, "{}: line {}: nested more than {} levels deep", path, number,
                  text::kMaxJsonDepth);
    }
    Json task = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool good = task.is_object() && task.contains("messages") && task.contains("task") &&
                      task["task"].is_string() && task.contains("expected_text") &&
                      task["expected_text"].is_string() &&
                      (!task.contains("stop") || task["stop"].is_string());
    if (!good)
      return fail(ErrorKind::kUsage, "{}: line {}: a task needs task, messages and expected_text",
                  path, number);
    tasks.push_back(std::move(task));
  }
  if (tasks.empty()) return fail(ErrorKind::kUsage, "{}: no tasks", path);
  return tasks;
}

// The template variables of a task: what a client would send, without the expectation.
Json request_of(const Json& task) {
  Json request = Json::object();
  for (const char* key : {"messages", "tools", "enable_thinking"}) {
    if (task.contains(key)) request[key] = task[key];
  }
  return request;
}

// Greedy; the completion stops once its text leaves the expected path, for the item is lost then.
Result<session::Job> make_job(const session::LoadedModel& loaded, const Json& task) {
  LS_TRY(const Json variables, session::template_variables(request_of(task)));
  LS_TRY(const session::RenderedPrompt prompt, session::render_chat(loaded, variables));
  session::Job job;
  job.request.generation.prompt = prompt.ids;
  job.request.generation.sampling.temperature = 0;
  job.sink.on_progress = [expected = task["expected_text"].get<std::string>()](
                             const session::Completion& so_far, const session::Progress&) {
    return expected.starts_with(so_far.text);
  };
  return job;
}

// Exact match of the text and of the stop token.
bool correct(const Json& task, const session::Completion& completion) {
  const std::string stop =
      task.contains("stop") ? task["stop"].get<std::string>() : completion.matched_stop;
  return completion.finish_reason != "length" &&
         completion.text == task["expected_text"].get<std::string>() &&
         completion.matched_stop == stop;
}

void print_scores(const Flags& flags, const Score& total,
                  const std::map<std::string, Score>& tasks) {
  if (flags.as_json) {
    Json result = {{"total", {{"n", total.n}, {"correct", total.correct}}},
                   {"tasks", Json::object()}};
    for (const auto& [name, score] : tasks)
      result["tasks"][name] = {{"n", score.n}, {"correct", score.correct}};
    std::cout << result.dump() << '\n';
    return;
  }
  for (const auto& [name, score] : tasks)
    fmt::print("{:<14} {:>4} of {:>4}\n", name, score.correct, score.n);
  fmt::print("{:<14} {:>4} of {:>4}\n", "total", total.correct, total.n);
}

Result<void> run(const Flags& flags) {
  LS_TRY(const std::vector<Json> tasks, read_tasks(flags.tasks, flags.limit));
  LS_TRY(const session::LoadOptions options, flags.model.load_options());
  if (!options.synthetic.empty())
    return fail(ErrorKind::kUsage, "eval needs a tokenizer, which --synthetic weights lack");
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  ItemProgress bar("evaluating");
  std::vector<session::Job> jobs;
  int64_t done = 0;
  int64_t right = 0;
  for (const Json& task : tasks) {
    LS_TRY(session::Job job, make_job(*loaded, task));
    job.sink.on_finish = [&](const session::Completion& completion) {
      right += correct(task, completion) ? 1 : 0;
      bar.update(++done, static_cast<int64_t>(tasks.size()), fmt::format("{} correct", right));
    };
    jobs.push_back(std::move(job));
  }
  LS_TRY(const std::vector<session::Completion> completions,
         session::complete_all(*loaded, std::move(jobs), interrupt_token()));
  if (interrupt_token().cancelled()) return fail(ErrorKind::kCancelled, "stopped");
  Score total;
  std::map<std::string, Score> by_task;
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (completions[i].error) return tl::unexpected<Error>(*completions[i].error);
    const bool matched = correct(tasks[i], completions[i]);
    for (Score* each : {&by_task[tasks[i]["task"].get<std::string>()], &total}) {
      ++each->n;
      each->correct += matched ? 1 : 0;
    }
    if (matched) continue;
    fmt::print(stderr, "\rwrong: {} {}: expected {} got {} then {}\n", tasks[i]["task"].dump(),
               tasks[i].value("id", Json(total.n)).dump(), tasks[i]["expected_text"].dump(),
               Json(completions[i].text).dump(), Json(completions[i].matched_stop).dump());
  }
  bar.finish();
  print_scores(flags, total, by_task);
  return loaded->close_routing();
}

}  // namespace

Run add_eval(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  flags->model.add_speculation_to(command);
  command
      .add_option("TASKS", flags->tasks,
                  "JSONL of {task, messages, expected_text, stop, tools?, enable_thinking?}")
      ->required();
  command.add_option("--limit", flags->limit, "only the first N tasks")->capture_default_str();
  command.add_flag("--json", flags->as_json,
                   "print {\"total\":{n,correct},\"tasks\":{NAME:{n,correct}}}");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
