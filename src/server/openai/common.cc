#include "server/openai/common.h"

#include <algorithm>
#include <chrono>

namespace longshore::server {
namespace {

void read_json_schema(FieldReader& format_fields, text::OutputFormat& format,
                      FormatFields& fields) {
  static const Json kNothing = Json::object();
  const Json* given = format_fields.object("json_schema");
  Fault& fault = format_fields.fault();
  if (given == nullptr) fault.set("response_format.json_schema", "the field is required");
  FieldReader inner(given == nullptr ? kNothing : *given, "response_format.json_schema", fault);
  inner.ignore({"name", "description"});
  // A schema is always enforced.
  (void)inner.flag("strict", true);
  fields.answer = inner.path_of("schema");
  const Json* schema = inner.get("schema");
  if (schema == nullptr || !(schema->is_object() || schema->is_boolean())) {
    fault.set(fields.answer, schema == nullptr ? "the field is required" : "expected an object");
  } else {
    format.schema = *schema;
  }
  inner.refuse_the_rest();
}

void read_response_format(FieldReader& body, text::OutputFormat& format, FormatFields& fields) {
  const Json* given = body.object("response_format");
  if (given == nullptr) return;
  FieldReader inner(*given, "response_format", body.fault());
  const std::string type = inner.string("type").value_or("");
  if (type == "json_object") {
    fields.answer = "response_format";
    format.schema = Json{{"type", "object"}};
  } else if (type == "json_schema") {
    read_json_schema(inner, format, fields);
  } else if (type != "text") {
    body.fault().set("response_format.type",
                     "expected \"text\", \"json_object\" or \"json_schema\"");
  }
  inner.refuse_the_rest();
}

}  // namespace

void read_common(FieldReader& body) {
  body.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
               "prompt_cache_options", "prompt_cache_retention", "prediction", "cache_control"});
  body.refuse({"regex", "ebnf", "json_schema", "stop_regex", "structured_outputs", "structural_tag",
               "guided_json", "guided_regex", "guided_choice", "guided_grammar"},
              "not supported: use response_format or grammar");
}

void read_answer_format(FieldReader& body, text::OutputFormat& format, FormatFields& fields) {
  read_response_format(body, format, fields);
  const auto grammar = body.string("grammar");
  if (!grammar) return;
  if (format.schema) body.fault().set("grammar", "response_format is there too: give one");
  fields.answer = "grammar";
  format.schema.reset();
  format.gbnf = *grammar;
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
