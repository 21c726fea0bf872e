// What the requests of OpenAI's two dialects have in common.
//
// Threading: free functions without state.
#pragma once

#include "server/api/generation_fields.h"
#include "server/api/output_format.h"
#include "server/api_options.h"

namespace longshore::server {

// Fields that change nothing by nature, and other engines' names for structured output, which are
// refused.
void read_common(FieldReader& body);

// response_format and grammar: what the answer is.
void read_answer_format(FieldReader& body, text::OutputFormat& format, FormatFields& fields);

// Sampling, stopping and seed into the request, the model's defaults first. top_logprobs: -1 for
// none.
void read_generation(FieldReader& body, const session::LoadedModel& loaded, const Ids& ids,
                     int32_t top_logprobs, session::CompletionRequest& request);

[[nodiscard]] int64_t unix_seconds();

// The most choices that one call may have: more than run and wait at once could never start.
[[nodiscard]] int64_t most_choices(const session::LoadedModel& loaded, const ApiOptions& options);

}  // namespace longshore::server
