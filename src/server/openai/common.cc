#include "server/openai/common.h"

#include <algorithm>
#include <chrono>

namespace longshore::server {
namespace {

void check_response_format(FieldReader& body) {
  const Json* format = body.object("response_format");
  if (format == nullptr) return;
  FieldReader fields(*format, "response_format", body.fault());
  const auto type = fields.string("type");
  if (type && *type == "text") return fields.refuse_the_rest();
  body.fault().set("response_format",
                   "only {\"type\": \"text\"} is supported: structured output is not there yet");
}

}  // namespace

void read_common(FieldReader& body) {
  body.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
               "prompt_cache_options", "prompt_cache_retention", "prediction", "cache_control"});
  body.refuse({"regex", "ebnf", "json_schema", "stop_regex", "structured_outputs", "structural_tag",
               "guided_json", "guided_regex", "guided_choice", "guided_grammar"},
              "structured output is not supported yet: remove the field");
  check_response_format(body);
}

void read_generation(FieldReader& body, const session::LoadedModel& loaded, const Ids& ids,
                     int32_t top_logprobs, session::CompletionRequest& request) {
  engine::SamplingParams& sampling = request.generation.sampling;
  const int64_t vocab = loaded.checkpoint->config().vocab_size;
  sampling = loaded.defaults.sampling;
  sampling.seed = ids.random();
  sampling.top_logprobs = top_logprobs;
  read_basic_sampling(body, sampling);
  read_more_sampling(body, vocab, sampling);
  check_sampling(sampling, vocab, body.fault());
  read_stopping(body, loaded, request);
}

int64_t most_choices(const session::LoadedModel& loaded, const ApiOptions& options) {
  const engine::EngineOptions& engine = loaded.engine->options();
  if (engine.max_queued < 0) return options.max_choices;
  return std::min(options.max_choices, engine.max_running + engine.max_queued);
}

int64_t unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace longshore::server
