#include "server/anthropic/messages.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "server/anthropic/history.h"
#include "server/anthropic/message_exchange.h"
#include "server/api/chat_prompt.h"
#include "server/api/generation_fields.h"
#include "server/api/output_format.h"

namespace longshore::server {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr std::array<std::string_view, 5> kEfforts = {"low", "medium", "high", "xhigh", "max"};

void check_other_fields(FieldReader& body) {
  body.ignore({"metadata", "service_tier", "cache_control", "anthropic_version", "anthropic_beta",
               "betas", "inference_geo", "diagnostics", "user_profile_id", "workspace_id"});
  body.refuse({"container", "mcp_servers"}, "not supported: remove the field");
  if (body.string("speed").value_or("standard") != "standard") {
    body.fault().set("speed", "there is one speed only: remove the field");
  }
}

// Without `thinking` an answer has no thinking block, as at Anthropic.
bool read_thinking(FieldReader& body, bool& shown) {
  shown = false;
  const Json* given = body.object("thinking");
  if (given == nullptr) return false;
  FieldReader fields(*given, "thinking", body.fault());
  const std::string type = fields.string("type").value_or("");
  if (type != "enabled" && type != "disabled" && type != "adaptive") {
    body.fault().set("thinking.type", "expected \"enabled\", \"adaptive\" or \"disabled\"");
  }
  // A target that a model need not reach; GLM takes none.
  (void)fields.integer("budget_tokens", 1, kMaxInt32);
  const std::string display = fields.string("display").value_or("summarized");
  if (display != "summarized" && display != "omitted") {
    body.fault().set("thinking.display", "expected \"summarized\" or \"omitted\"");
  }
  fields.refuse_the_rest();
  shown = type != "disabled" && display != "omitted";
  return type != "disabled";
}

// {"type": "json_schema", "schema": ...}, which has two places.
void read_format(FieldReader& holder, const char* name, text::OutputFormat& format,
                 FormatFields& paths) {
  const Json* given = holder.object(name);
  if (given == nullptr) return;
  FieldReader fields(*given, holder.path_of(name), holder.fault());
  if (format.schema)
    holder.fault().set(holder.path_of(name), "the format is there twice: give one");
  if (fields.string("type").value_or("") != "json_schema")
    holder.fault().set(fields.path_of("type"), "expected \"json_schema\"");
  paths.answer = fields.path_of("schema");
  const Json* schema = fields.object("schema");
  if (schema == nullptr) {
    holder.fault().set(paths.answer, "the field is required");
  } else {
    format.schema = *schema;
  }
  fields.ignore({"name", "description"});
  fields.refuse_the_rest();
}

void read_output_config(FieldReader& body, Json& variables, text::OutputFormat& format,
                        FormatFields& paths) {
  const Json* given = body.object("output_config");
  if (given == nullptr) return;
  FieldReader fields(*given, "output_config", body.fault());
  if (const auto effort = fields.string("effort")) {
    if (std::find(kEfforts.begin(), kEfforts.end(), *effort) == kEfforts.end()) {
      body.fault().set("output_config.effort", "expected low, medium, high, xhigh or max");
    }
    variables["reasoning_effort"] = *effort;
  }
  read_format(fields, "format", format, paths);
  fields.refuse_the_rest();
}

// The one edit that is a matter of the template: how long thinking stays in the history.
void read_context_management(FieldReader& body, Json& variables) {
  const Json* given = body.object("context_management");
  if (given == nullptr) return;
  FieldReader fields(*given, "context_management", body.fault());
  const Json* edits = fields.list("edits");
  for (size_t i = 0; edits != nullptr && i < edits->size(); ++i) {
    FieldReader edit((*edits)[i], fmt::format("context_management.edits[{}]", i), body.fault());
    const std::string type = edit.string("type").value_or("");
    const Json* keep = edit.get("keep");
    if (!type.starts_with("clear_thinking") || keep == nullptr || *keep != "all") {
      body.fault().set(edit.path_of("type"),
                       "only clear_thinking with \"keep\": \"all\" is supported: remove the edit");
    }
    variables["clear_thinking"] = false;
    edit.refuse_the_rest();
  }
  fields.refuse_the_rest();
}

// Everything that decides the prompt.
void read_prompt(FieldReader& body, const session::LoadedModel& loaded, MessageCall& call) {
  ChatPrompt prompt;
  prompt.messages = read_anthropic_messages(body);
  Json tools = read_anthropic_tools(body);
  const AnthropicToolChoice choice = read_anthropic_tool_choice(body, tools);
  const bool offered = choice.calls != text::OutputFormat::Calls::kNone;
  if (offered) prompt.tools = std::move(tools);
  const bool thinks = read_thinking(body, call.show_thinking);
  prompt.template_variables["enable_thinking"] = thinks;
  text::OutputFormat format{.calls = choice.calls, .one_call = !choice.parallel};
  FormatFields paths;
  read_format(body, "output_format", format, paths);
  read_output_config(body, prompt.template_variables, format, paths);
  read_context_management(body, prompt.template_variables);
  prompt.continue_final_message =
      !prompt.messages.empty() && prompt.messages.back()["role"] == "assistant";
  if (prompt.continue_final_message && thinks) {
    body.fault().set(
        "thinking",
        "an answer whose beginning the last message gives has no thinking: turn it off");
  }
  session::RenderedPrompt rendered = render_prompt(loaded, prompt, "messages", body.fault());
  call.parallel_calls = choice.parallel;
  call.request.generation.prompt = std::move(rendered.ids);
  call.request.parse = true;
  call.request.parser.starts_in_reasoning = rendered.starts_in_reasoning;
  call.request.parser.parse_tool_calls = offered;
  format.starts_in_reasoning = rendered.starts_in_reasoning;
  if (offered && !body.fault())
    allow_calls(prompt.tools, anthropic_schema_fields(prompt.tools), choice.name, format, paths);
  call.request.parser.tools = std::move(prompt.tools);
  constrain(loaded, format, paths, call.request, body.fault());
}

// Claude Code reads the numbers out of these two sentences and shortens its next request
// accordingly.
void check_lengths(const session::LoadedModel& loaded, const engine::GenerationRequest& generation,
                   Fault& fault) {
  const int64_t context = context_length(loaded);
  const auto prompt = static_cast<int64_t>(generation.prompt.size());
  std::string message;
  if (prompt >= context) {
    message = fmt::format("prompt is too long: {} tokens > {} maximum", prompt, context - 1);
  } else if (generation.max_tokens > context - prompt) {
    message = fmt::format(
        "input length and `max_tokens` exceed context limit: {} + {} > {}, decrease input length "
        "or `max_tokens` and try again",
        prompt, generation.max_tokens, context);
  }
  if (!message.empty()) {
    fault.set({.status = 400,
               .message = std::move(message),
               .param = "messages",
               .code = "context_length_exceeded"});
  }
}

void read_generation(FieldReader& body, const session::LoadedModel& loaded, MessageCall& call) {
  engine::GenerationRequest& generation = call.request.generation;
  generation.sampling = loaded.defaults.sampling;
  generation.sampling.seed = call.ids.random();
  read_basic_sampling(body, generation.sampling);
  check_sampling(generation.sampling, loaded.checkpoint->config().vocab_size, body.fault());
  if (body.list("stop_sequences") != nullptr)
    call.request.stop = string_or_list(body, "stop_sequences");
  generation.stop_ids = loaded.defaults.eos_ids;
  call.request.skip_special_tokens = true;
  stop_at_special_tokens(*loaded.tokenizer, call.request);
  const auto max_tokens = body.integer("max_tokens", 1, kMaxInt32);
  generation.max_tokens = max_tokens.value_or(-1);
  call.stream = body.flag("stream", false);
}

}  // namespace

ApiResult<std::unique_ptr<Exchange>> anthropic_messages(const session::LoadedModel& loaded,
                                                        const text::Json& body_json,
                                                        const ApiOptions& options) {
  Fault fault;
  FieldReader body(body_json, "", fault);
  MessageCall call;
  call.model = options.served_model;
  check_model(body, options, /*required=*/true);
  check_other_fields(body);
  read_generation(body, loaded, call);
  if (call.request.generation.max_tokens < 0) fault.set("max_tokens", "the field is required");
  read_prompt(body, loaded, call);
  body.refuse_the_rest();
  if (!fault) check_lengths(loaded, call.request.generation, fault);
  if (fault) return tl::unexpected(fault.error());
  return std::make_unique<MessageExchange>(std::move(call));
}

ApiResult<std::string> anthropic_count_tokens(const session::LoadedModel& loaded,
                                              const text::Json& body_json,
                                              const ApiOptions& options) {
  Fault fault;
  FieldReader body(body_json, "", fault);
  MessageCall call;
  check_model(body, options, /*required=*/true);
  check_other_fields(body);
  read_generation(body, loaded, call);
  read_prompt(body, loaded, call);
  body.refuse_the_rest();
  if (fault) return tl::unexpected(fault.error());
  return to_text({{"input_tokens", call.request.generation.prompt.size()}});
}

}  // namespace longshore::server
