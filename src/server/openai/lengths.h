// max_tokens and the context's length.
//
// Threading: free functions without state.
#pragma once

#include "server/api/generation_fields.h"

namespace longshore::server {

// max_tokens or, in chat, its newer name max_completion_tokens. Nothing where neither is given.
std::optional<int64_t> read_max_tokens(FieldReader& fields, bool chat);

// Faults: prompt and max_tokens do not fit (context_length_exceeded), max_tokens below min_tokens.
// field names the prompt.
void check_lengths(const session::LoadedModel& loaded, const engine::GenerationRequest& generation,
                   const char* field, Fault& fault);

}  // namespace longshore::server
