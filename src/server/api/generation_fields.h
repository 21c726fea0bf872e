// The fields about sampling, stopping and lengths that OpenAI's two dialects share.
//
// Threading: free functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/api/fields.h"
#include "server/api/ids.h"
#include "server/api_options.h"
#include "session/completion.h"

namespace longshore::server {

// Tokens that a request's prompt and output have together.
[[nodiscard]] int64_t context_length(const session::LoadedModel& loaded);

// `model`: 404 model_not_found where the options say so.
void check_model(FieldReader& fields, const ApiOptions& options, bool required);

// temperature, top_p, top_k over the model's defaults.
void read_basic_sampling(FieldReader& fields, engine::SamplingParams& sampling);
// min_p, penalties, logit_bias, seed besides.
void read_more_sampling(FieldReader& fields, int64_t vocab_size, engine::SamplingParams& sampling);

// stop, stop_token_ids, ignore_eos, min_tokens, no_stop_trim, skip_special_tokens. stop_ids is
// filled.
void read_stopping(FieldReader& fields, const session::LoadedModel& loaded,
                   session::CompletionRequest& request);

// A stop string that is a special token leaves no text where those are skipped: its id stops
// instead.
void stop_at_special_tokens(const text::Tokenizer& tokenizer, session::CompletionRequest& request);

// cache_salt, priority. The answer's id: rid or request_id, else one made with prefix.
std::string read_identity(FieldReader& fields, const Ids& ids, const char* prefix,
                          engine::GenerationRequest& generation);

struct StreamFields {
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
};
// stream, stream_options.
StreamFields read_stream(FieldReader& fields);

// Names the field of the sampler's own check.
void check_sampling(const engine::SamplingParams& sampling, int64_t vocab_size, Fault& fault);

// True where the id is the end of the text, not a part of it.
[[nodiscard]] bool ends_text(const session::CompletionRequest& request, int32_t id);

// `n` copies whose seeds follow from the first one's; that one keeps its own.
std::vector<session::CompletionRequest> choices_of(const session::CompletionRequest& request,
                                                   int64_t n);

}  // namespace longshore::server
