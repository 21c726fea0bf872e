// What `bench speculation` lets the model answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct PromptSet {
  std::string name;
  std::vector<std::vector<int32_t>> prompts;  // ids
  bool stops = false;                         // answers end where the model ends them
};

// content: a JSON object a line, as `eval` reads them; its messages become a prompt. The model has
// text. kUsage: a line that is none.
[[nodiscard]] Result<PromptSet> task_prompts(const session::LoadedModel& loaded,
                                             const std::string& content);
// Beginnings of the text's paragraphs, to be gone on with. kUsage: no paragraphs.
[[nodiscard]] Result<PromptSet> prose_prompts(const session::LoadedModel& loaded,
                                              const std::string& content);
// Ids that mean nothing: what follows is as hard to guess as it gets.
[[nodiscard]] PromptSet random_prompts(int64_t vocab, uint64_t seed);

}  // namespace longshore::bench
