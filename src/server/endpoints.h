// The small endpoints: models, tokenize, detokenize, offload, the list of paths.
//
// Threading: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "server/api_error.h"
#include "server/api_options.h"
#include "session/loaded_model.h"
#include "text/chat_template.h"

namespace longshore::server {

// An entry of /v1/models with the fields of OpenAI's and of Anthropic's API. created: Unix seconds.
[[nodiscard]] text::Json model_entry(const session::LoadedModel& loaded, const ApiOptions& options,
                                     int64_t created);
// The list with that one entry, in both shapes too.
[[nodiscard]] std::string model_list(const text::Json& entry);

// {"prompt": text or list of texts} or {"messages": [...], "tools": [...], ...} -> {"tokens",
// "count", "max_model_len"}. "add_special_tokens" changes nothing: GLM's tokenizer adds none.
// "return_token_strs": true adds "token_strs".
[[nodiscard]] ApiResult<std::string> tokenize(const session::LoadedModel& loaded,
                                              const text::Json& body);
// {"tokens": ids or list of ids, "skip_special_tokens": bool (true)} -> {"text", "prompt"}:
// SGLang's name and vLLM's.
[[nodiscard]] ApiResult<std::string> detokenize(const session::LoadedModel& loaded,
                                                const text::Json& body);

// Where the experts are and who computed them. report: as of the last step.
[[nodiscard]] std::string offload_report(const session::LoadedModel& loaded,
                                         const ApiOptions& options,
                                         const offload::StoreReport& report);

// {"gpu_expert_gib": number} -> {"gpu_expert_gib", "slots"}, in force from the next step on.
[[nodiscard]] ApiResult<std::string> change_budget(
    const text::Json& body, const std::function<Result<int64_t>(int64_t)>& limit_slots);

// What "/" says to who does not ask for HTML.
[[nodiscard]] std::string path_list(const ApiOptions& options);

}  // namespace longshore::server
