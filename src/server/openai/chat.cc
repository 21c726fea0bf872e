#include "server/openai/chat.h"

#include <utility>

#include "server/api/chat_prompt.h"
#include "server/openai/chat_exchange.h"
#include "server/openai/common.h"
#include "server/openai/history.h"
#include "server/openai/lengths.h"
#include "server/openai/thinking.h"

namespace longshore::server {
namespace {

void refuse_by_name(FieldReader& body) {
  body.refuse("thinking_token_budget", "a budget for thinking is not supported: remove the field");
  body.refuse({"functions", "function_call"}, "an old name: use tools and tool_choice");
  body.refuse(
      {"audio", "moderation", "web_search_options", "verbosity", "echo", "suffix", "best_of"},
      "not supported here: remove the field");
}

void check_modalities(FieldReader& body) {
  const Json* list = body.list("modalities");
  if (list != nullptr && *list != Json::array({"text"})) {
    body.fault().set("modalities", "only [\"text\"] is supported");
  }
}

int32_t read_logprobs(FieldReader& body) {
  const bool wanted = body.flag("logprobs", false);
  const auto top = body.integer("top_logprobs", 0, 20);
  if (top.value_or(0) > 0 && !wanted)
    body.fault().set("top_logprobs", "only allowed where logprobs is true");
  return wanted ? static_cast<int32_t>(top.value_or(0)) : -1;
}

void read_prompt(FieldReader& body, const session::LoadedModel& loaded, ChatCall& call) {
  ChatPrompt prompt;
  prompt.messages = read_messages(body);
  Json tools = read_tools(body);
  const ToolChoice choice = read_tool_choice(body, tools);
  const bool offered = choice.calls != text::OutputFormat::Calls::kNone;
  if (offered) prompt.tools = std::move(tools);
  prompt.template_variables = read_template_variables(body);
  prompt.continue_final_message = body.flag("continue_final_message", false);
  session::RenderedPrompt rendered =
      render_prompt(loaded, prompt, "continue_final_message", body.fault());
  call.request.generation.prompt = std::move(rendered.ids);
  call.request.parse = true;
  call.request.parser.starts_in_reasoning = rendered.starts_in_reasoning;
  call.request.parser.parse_reasoning = body.flag("separate_reasoning", true);
  call.request.parser.parse_tool_calls = offered;
  text::OutputFormat format{.calls = choice.calls,
                            .one_call = !call.parallel_tool_calls,
                            .starts_in_reasoning = rendered.starts_in_reasoning};
  FormatFields fields;
  read_answer_format(body, format, fields);
  if (offered && !body.fault())
    allow_calls(prompt.tools, schema_fields(prompt.tools), choice.name, format, fields);
  call.request.parser.tools = std::move(prompt.tools);
  constrain(loaded, format, fields, call.request, body.fault());
}

}  // namespace

ApiResult<std::unique_ptr<Exchange>> openai_chat(const session::LoadedModel& loaded,
                                                 const text::Json& body_json,
                                                 const ApiOptions& options) {
  Fault fault;
  FieldReader body(body_json, "", fault);
  ChatCall call;
  call.model = options.served_model;
  call.created = unix_seconds();
  check_model(body, options, /*required=*/false);
  refuse_by_name(body);
  read_common(body);
  check_modalities(body);
  call.id = read_identity(body, call.ids, "chatcmpl-", call.request.generation);
  call.stream = read_stream(body);
  call.n = body.integer("n", 1, most_choices(loaded, options)).value_or(1);
  call.show_reasoning = body.flag("include_reasoning", true);
  call.stream_reasoning = body.flag("stream_reasoning", true);
  call.parallel_tool_calls = body.flag("parallel_tool_calls", true);
  read_prompt(body, loaded, call);
  read_generation(body, loaded, call.ids, read_logprobs(body), call.request);
  call.request.generation.max_tokens = read_max_tokens(body, /*chat=*/true).value_or(-1);
  if (!fault) check_lengths(loaded, call.request.generation, "messages", fault);
  body.refuse_the_rest();
  if (fault) return tl::unexpected(fault.error());
  return std::make_unique<ChatExchange>(loaded, std::move(call));
}

}  // namespace longshore::server
