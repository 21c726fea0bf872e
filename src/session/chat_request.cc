#include "session/chat_request.h"

#include <string>

namespace longshore::session {
namespace {

using text::Json;

// OpenAI's clients send arguments as a JSON string.
Result<void> parse_arguments(Json& call, size_t index) {
  Json& function = call.contains("function") ? call["function"] : call;
  if (!function.is_object() || !function.contains("arguments") ||
      !function["arguments"].is_string())
    return {};
  const auto text = function["arguments"].get<std::string>();
  Json arguments =
      text.empty() ? Json::object() : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!arguments.is_object()) {
    return fail(ErrorKind::kUsage, "messages[{}].tool_calls: arguments are not a JSON object",
                index);
  }
  function["arguments"] = std::move(arguments);
  return {};
}

Result<void> check_message(Json& message, size_t index) {
  if (!message.is_object()) return fail(ErrorKind::kUsage, "messages[{}] is not an object", index);
  if (!message.contains("role") || !message["role"].is_string()) {
    return fail(ErrorKind::kUsage, "messages[{}] has no role: system, user, assistant or tool",
                index);
  }
  if (!message.contains("tool_calls") || message["tool_calls"].is_null()) return {};
  if (!message["tool_calls"].is_array())
    return fail(ErrorKind::kUsage, "messages[{}].tool_calls is not a list", index);
  for (Json& call : message["tool_calls"]) LS_TRY_VOID(parse_arguments(call, index));
  return {};
}

Result<void> check_tools(const Json& variables) {
  const auto tools = variables.find("tools");
  if (tools == variables.end() || tools->is_null()) return {};
  if (!tools->is_array()) return fail(ErrorKind::kUsage, "tools is not a list of objects");
  for (size_t i = 0; i < tools->size(); ++i) {
    if (!(*tools)[i].is_object()) return fail(ErrorKind::kUsage, "tools[{}] is not an object", i);
  }
  return {};
}

}  // namespace

Result<Json> template_variables(const Json& request) {
  if (!request.is_object()) return fail(ErrorKind::kUsage, "not a JSON object with messages");
  Json variables = Json::object();
  variables["add_generation_prompt"] = true;
  for (const auto& [key, value] : request.items()) {
    if (key != "chat_template_kwargs" && key != "kwargs") variables[key] = value;
  }
  for (const char* key : {"chat_template_kwargs", "kwargs"}) {
    if (!request.contains(key) || request[key].is_null()) continue;
    if (!request[key].is_object()) return fail(ErrorKind::kUsage, "{} is not an object", key);
    for (const auto& [name, value] : request[key].items()) variables[name] = value;
  }
  if (!variables.contains("messages") || !variables["messages"].is_array()) {
    return fail(ErrorKind::kUsage, "messages is missing or not a list");
  }
  LS_TRY_VOID(check_tools(variables));
  size_t index = 0;
  for (Json& message : variables["messages"]) LS_TRY_VOID(check_message(message, index++));
  return variables;
}

}  // namespace longshore::session
