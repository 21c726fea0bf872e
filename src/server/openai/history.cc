#include "server/openai/history.h"

#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "server/api/chat_prompt.h"
#include "text/parsers/tool_schema.h"

namespace longshore::server {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};

// The text of one part of a content list.
std::string part_text(const Json& part, const std::string& path, Fault& fault) {
  if (part.is_string()) return part.get<std::string>();
  FieldReader fields(part, path, fault);
  const std::string type = fields.string("type").value_or("text");
  if (type == "refusal") return fields.string("refusal").value_or("");
  if (type != "text") {
    fault.set(
        path + ".type",
        fmt::format("\"{}\" is not supported, this model reads text only: send a text part", type));
    return {};
  }
  if (fields.get("text") == nullptr) fault.set(path + ".text", "the field is required");
  fields.ignore({"cache_control", "prompt_cache_breakpoint", "annotations"});
  std::string text = fields.string("text").value_or("");
  fields.refuse_the_rest();
  return text;
}

std::string read_content(FieldReader& message, bool required) {
  const Json* content = message.get("content");
  const std::string path = message.path_of("content");
  if (content == nullptr) {
    if (required) message.fault().set(path, "the field is required");
    return {};
  }
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    message.fault().set(
        path, fmt::format("expected a string or a list of parts, got {}", type_name(*content)));
    return {};
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    text += part_text((*content)[i], fmt::format("{}[{}]", path, i), message.fault());
  }
  return text;
}

Json read_arguments(FieldReader& function) {
  const Json* arguments = function.get("arguments");
  if (arguments == nullptr) return Json::object();
  Json value = *arguments;
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    // The body's limit on nesting does not see into strings; is_json has its own.
    value = text.empty() ? Json::object() : text::is_json(text) ? Json::parse(text) : Json();
  }
  if (!value.is_object()) {
    function.fault().set(function.path_of("arguments"),
                         "expected a JSON object, as a string or as it is");
    return Json::object();
  }
  return value;
}

Json read_call(const Json& call, const std::string& path, Fault& fault) {
  FieldReader outer(call, path, fault);
  const auto id = outer.string("id");
  if (outer.string("type").value_or("function") != "function") {
    fault.set(path + ".type", "expected \"function\"");
  }
  outer.ignore({"index", "cache_control"});
  static const Json kNothing = Json::object();
  const Json* nested = outer.object("function");
  if (nested == nullptr) fault.set(path + ".function", "the field is required");
  FieldReader function(nested == nullptr ? kNothing : *nested, path + ".function", fault);
  const std::string name = function.string("name").value_or("");
  if (name.empty()) fault.set(path + ".function.name", "the field is required");
  function.ignore({"parsed_arguments"});  // what OpenAI's client makes of the arguments
  Json made = {{"type", "function"},
               {"function", {{"name", name}, {"arguments", read_arguments(function)}}}};
  if (id) made["id"] = *id;
  function.refuse_the_rest();
  outer.refuse_the_rest();
  return made;
}

Json read_calls(FieldReader& message) {
  Json calls = Json::array();
  const Json* list = message.list("tool_calls");
  if (list == nullptr) return calls;
  for (const Json& call : *list) {
    calls.push_back(read_call(
        call, fmt::format("{}[{}]", message.path_of("tool_calls"), calls.size()), message.fault()));
  }
  return calls;
}

void read_assistant(FieldReader& message, Json& made) {
  const auto reasoning_content = message.string("reasoning_content");
  const auto reasoning = message.string("reasoning");
  if (reasoning_content || reasoning)
    made["reasoning_content"] = reasoning_content ? *reasoning_content : *reasoning;
  Json calls = read_calls(message);
  message.refuse({"function_call", "audio"}, "not supported: use tool_calls and text");
  message.ignore({"refusal", "annotations", "id", "parsed"});
  made["content"] = read_content(message, calls.empty() && !reasoning_content && !reasoning);
  if (!calls.empty()) made["tool_calls"] = std::move(calls);
}

Json read_message(const Json& given, size_t index, Fault& fault) {
  FieldReader message(given, fmt::format("messages[{}]", index), fault);
  const auto role = message.string("role");
  Json made = Json::object();
  if (!role) {
    fault.set(message.path_of("role"), "the field is required");
    return made;
  }
  if (std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
    fault.set(message.path_of("role"),
              fmt::format("\"{}\" is none of system, developer, user, assistant, tool", *role));
    return made;
  }
  made["role"] = *role == "developer" ? "system" : *role;
  // The name of a participant has no place in GLM's format; the rest are notes of clients.
  message.ignore({"name", "cache_control"});
  if (*role == "assistant") {
    read_assistant(message, made);
  } else {
    if (*role == "tool") {
      if (const auto id = message.string("tool_call_id")) made["tool_call_id"] = *id;
    }
    const bool given_as_null = given.contains("content");
    made["content"] = read_content(message, !given_as_null);
  }
  message.refuse_the_rest();
  return made;
}

void read_tool(const Json& tool, size_t index, std::set<std::string>& names, Fault& fault) {
  FieldReader outer(tool, fmt::format("tools[{}]", index), fault);
  const std::string type = outer.string("type").value_or("function");
  if (type != "function") {
    fault.set(outer.path_of("type"),
              fmt::format("\"{}\" is not supported: only function tools are", type));
  }
  outer.ignore({"cache_control"});
  static const Json kNothing = Json::object();
  const Json* nested = outer.object("function");
  if (nested == nullptr) fault.set(outer.path_of("function"), "the field is required");
  FieldReader function(nested == nullptr ? kNothing : *nested, outer.path_of("function"), fault);
  const std::string name = function.string("name").value_or("");
  if (name.empty()) fault.set(function.path_of("name"), "the field is required");
  if (!names.insert(name).second)
    fault.set(function.path_of("name"), fmt::format("\"{}\" is there twice", name));
  (void)function.string("description");
  (void)function.object("parameters");
  (void)function.flag("strict", false);
  function.refuse_the_rest();
  outer.refuse_the_rest();
}

}  // namespace

Json read_messages(FieldReader& body) {
  Json made = Json::array();
  const Json* messages = body.list("messages");
  if (messages == nullptr || messages->empty()) {
    body.fault().set("messages",
                     messages == nullptr ? "the field is required" : "the list is empty");
    return made;
  }
  for (const Json& message : *messages)
    made.push_back(read_message(message, made.size(), body.fault()));
  if (body.fault()) return made;
  if (const auto orphan = sort_tool_results(made)) {
    body.fault().set(fmt::format("messages[{}].tool_call_id", *orphan),
                     "no call of the turn before has this id");
  }
  return made;
}

Json read_tools(FieldReader& body) {
  const Json* tools = body.list("tools");
  if (tools == nullptr || tools->empty()) return nullptr;
  std::set<std::string> names;
  for (size_t i = 0; i < tools->size(); ++i) read_tool((*tools)[i], i, names, body.fault());
  return *tools;
}

namespace {

std::string named_function(const Json& choice, const Json& tools, Fault& fault) {
  FieldReader outer(choice, "tool_choice", fault);
  if (outer.string("type").value_or("") != "function")
    fault.set("tool_choice.type", "expected \"function\"");
  static const Json kNothing = Json::object();
  const Json* nested = outer.object("function");
  FieldReader function(nested == nullptr ? kNothing : *nested, "tool_choice.function", fault);
  const std::string name = function.string("name").value_or("");
  function.refuse_the_rest();
  outer.refuse_the_rest();
  const bool known =
      tools.is_array() && std::any_of(tools.begin(), tools.end(), [&](const Json& t) {
        return t.contains("function") && t["function"].is_object() &&
               t["function"].value("name", Json()) == name;
      });
  if (!known)
    fault.set("tool_choice.function.name", fmt::format("\"{}\" is none of the tools", name));
  return name;
}

}  // namespace

ToolChoice read_tool_choice(FieldReader& body, const Json& tools) {
  using Calls = text::OutputFormat::Calls;
  const Json* choice = body.get("tool_choice");
  const ToolChoice none;
  const ToolChoice free{.calls = tools.is_null() ? Calls::kNone : Calls::kFree, .name = {}};
  if (choice == nullptr || *choice == "auto") return free;
  if (*choice == "none") return none;
  if (choice->is_object())
    return {.calls = Calls::kOne, .name = named_function(*choice, tools, body.fault())};
  if (*choice != "required") {
    body.fault().set("tool_choice",
                     "expected \"auto\", \"none\", \"required\" or a function's name in an object");
    return none;
  }
  if (tools.is_null()) body.fault().set("tool_choice", "there are no tools to call");
  return {.calls = Calls::kRequired, .name = {}};
}

std::vector<std::string> schema_fields(const Json& tools) {
  std::vector<std::string> fields;
  for (size_t i = 0; i < tools.size(); ++i)
    fields.push_back(fmt::format("tools[{}].function.parameters", i));
  return fields;
}

}  // namespace longshore::server
