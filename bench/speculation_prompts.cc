#include "bench/speculation_prompts.h"

#include <algorithm>
#include <random>

#include "session/chat_request.h"
#include "session/completion.h"
#include "text/json_depth.h"

namespace longshore::bench {
namespace {

using text::Json;

std::vector<std::string> split(const std::string& content, const std::string& between) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find(between, begin), content.size());
    if (end > begin) parts.push_back(content.substr(begin, end - begin));
    begin = end + between.size();
  }
  return parts;
}

}  // namespace

Result<PromptSet> task_prompts(const session::LoadedModel& loaded, const std::string& content) {
  PromptSet set{"tasks", {}, /*stops=*/true};
  for (const std::string& line : split(content, "\n")) {
    const Json task = text::nests_deeper(line, text::kMaxJsonDepth)
                          ? Json()
                          : Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!task.is_object() || !task.contains("messages"))
      return fail(ErrorKind::kUsage, "--tasks: line {} has no messages", set.prompts.size() + 1);
    Json request = Json::object();
    for (const char* key : {"messages", "tools", "enable_thinking"}) {
      if (task.contains(key)) request[key] = task[key];
    }
    LS_TRY(const Json variables, session::template_variables(request));
    LS_TRY(session::RenderedPrompt prompt, session::render_chat(loaded, variables));
    set.prompts.push_back(std::move(prompt.ids));
  }
  if (set.prompts.empty()) return fail(ErrorKind::kUsage, "--tasks: no tasks");
  // Kinds of tasks stand in blocks: a run of a few prompts has some of each.
  std::shuffle(set.prompts.begin(), set.prompts.end(), std::mt19937_64(7));
  return set;
}

Result<PromptSet> prose_prompts(const session::LoadedModel& loaded, const std::string& content) {
  constexpr size_t kIds = 48;
  PromptSet set{"prose", {}, /*stops=*/false};
  for (const std::string& paragraph : split(content, "\n\n")) {
    LS_TRY(std::vector<int32_t> ids, loaded.tokenizer->encode(paragraph));
    if (ids.size() < 8) continue;
    ids.resize(std::min(ids.size(), kIds));
    set.prompts.push_back(std::move(ids));
  }
  if (set.prompts.empty()) return fail(ErrorKind::kUsage, "--prose: no paragraphs");
  return set;
}

PromptSet random_prompts(int64_t vocab, uint64_t seed) {
  PromptSet set{"random ids", {}, /*stops=*/false};
  std::mt19937_64 random(seed);
  for (int prompt = 0; prompt < 64; ++prompt) {
    std::vector<int32_t>& ids = set.prompts.emplace_back();
    for (int i = 0; i < 32; ++i)
      ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
  }
  return set;
}

}  // namespace longshore::bench
