#include "server/anthropic/history.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "server/anthropic/system_text.h"
#include "server/api/chat_prompt.h"

namespace longshore::server {
namespace {

constexpr std::array<std::string_view, 4> kUnreadable = {"image", "document", "search_result",
                                                         "container_upload"};

// A message's blocks, or several messages' worth of tool results, taken apart.
struct Blocks {
  std::vector<std::string> texts;
  std::string thinking;
  bool has_thinking = false;
  Json calls = Json::array();
  Json results = Json::array();  // messages of role tool
};

std::string join(const std::vector<std::string>& texts, std::string_view between) {
  std::string all;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) all += between;
    all += texts[i];
  }
  return all;
}

class BlockReader {
 public:
  BlockReader(bool assistant, Fault& fault) : assistant_(assistant), fault_(fault) {}

  Blocks read(FieldReader& message, const char* name) {
    const Json* content = message.get(name);
    const std::string path = message.path_of(name);
    if (content == nullptr) {
      fault_.set(path, "the field is required");
    } else if (content->is_string()) {
      blocks_.texts.push_back(content->get<std::string>());
    } else if (!content->is_array()) {
      fault_.set(path,
                 fmt::format("expected a string or a list of blocks, got {}", type_name(*content)));
    } else {
      for (size_t i = 0; i < content->size(); ++i)
        block((*content)[i], fmt::format("{}[{}]", path, i));
    }
    return std::move(blocks_);
  }

 private:
  void block(const Json& given, const std::string& path) {
    FieldReader fields(given, path, fault_);
    const auto type = fields.string("type");
    if (!type) return fault_.set(path + ".type", "the field is required");
    if (std::find(kUnreadable.begin(), kUnreadable.end(), *type) != kUnreadable.end()) {
      return fault_.set(path + ".type",
                        fmt::format("\"{}\" is not supported: this model reads text only", *type));
    }
    if (*type == "text") return blocks_.texts.push_back(required_string(fields, "text"));
    const bool belongs = *type == "tool_result" ? !assistant_ : assistant_;
    const bool known = *type == "tool_use" || *type == "tool_result" || *type == "thinking";
    if (known && !belongs) {
      return fault_.set(path + ".type",
                        fmt::format("\"{}\" does not belong to a message of this role", *type));
    }
    if (*type == "thinking") {
      blocks_.thinking += fields.string("thinking").value_or("");
      blocks_.has_thinking = true;
    }
    if (*type == "tool_use") use(fields);
    if (*type == "tool_result") result(fields);
  }

  std::string required_string(FieldReader& fields, const char* name) {
    const auto value = fields.string(name);
    if (!value) fault_.set(fields.path_of(name), "the field is required");
    return value.value_or("");
  }

  void use(FieldReader& fields) {
    const std::string id = required_string(fields, "id");
    const std::string name = required_string(fields, "name");
    const Json* input = fields.object("input");
    const Json arguments = input == nullptr ? Json::object() : *input;
    blocks_.calls.push_back({{"id", id},
                             {"type", "function"},
                             {"function", {{"name", name}, {"arguments", arguments}}}});
  }

  void result(FieldReader& fields) {
    const std::string id = required_string(fields, "tool_use_id");
    std::string text;
    if (fields.get("content") != nullptr) {
      text = join(BlockReader(/*assistant=*/false, fault_).read(fields, "content").texts, "\n");
    }
    // GLM's format has no other place for it.
    if (fields.flag("is_error", false)) text = "Error: " + text;
    blocks_.results.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", text}});
  }

  bool assistant_;
  Fault& fault_;
  Blocks blocks_;
};

void add_system(FieldReader& holder, const char* name, bool leading, Json& messages) {
  std::vector<std::string> kept;
  for (std::string& text :
       BlockReader(/*assistant=*/false, holder.fault()).read(holder, name).texts) {
    text = stable_system_text(text, leading);
    if (!text.empty()) kept.push_back(std::move(text));
  }
  if (!kept.empty()) messages.push_back({{"role", "system"}, {"content", join(kept, "\n")}});
}

void add_user(FieldReader& message, Json& messages) {
  Blocks blocks = BlockReader(/*assistant=*/false, message.fault()).read(message, "content");
  for (Json& result : blocks.results) messages.push_back(std::move(result));
  if (blocks.results.empty() || !blocks.texts.empty()) {
    messages.push_back({{"role", "user"}, {"content", join(blocks.texts, "\n")}});
  }
}

void add_assistant(FieldReader& message, Json& messages) {
  Blocks blocks = BlockReader(/*assistant=*/true, message.fault()).read(message, "content");
  Json made = {{"role", "assistant"}, {"content", join(blocks.texts, "")}};
  if (blocks.has_thinking) made["reasoning_content"] = blocks.thinking;
  if (!blocks.calls.empty()) made["tool_calls"] = std::move(blocks.calls);
  messages.push_back(std::move(made));
}

void add_message(const Json& given, size_t index, Json& messages, Fault& fault) {
  FieldReader message(given, fmt::format("messages[{}]", index), fault);
  const std::string role = message.string("role").value_or("");
  if (role == "user") {
    add_user(message, messages);
  } else if (role == "assistant") {
    add_assistant(message, messages);
  } else if (role == "system") {
    add_system(message, "content", /*leading=*/false, messages);
  } else {
    fault.set(message.path_of("role"), "expected \"user\", \"assistant\" or \"system\"");
  }
  message.ignore({"cache_control", "id"});
  message.refuse_the_rest();
}

Json read_tool(const Json& tool, size_t index, std::set<std::string>& names, Fault& fault) {
  FieldReader fields(tool, fmt::format("tools[{}]", index), fault);
  const std::string type = fields.string("type").value_or("custom");
  if (type != "custom") {
    fault.set(
        fields.path_of("type"),
        fmt::format("\"{}\" runs on Anthropic's servers: only custom tools are supported", type));
  }
  const std::string name = fields.string("name").value_or("");
  if (name.empty()) fault.set(fields.path_of("name"), "the field is required");
  if (!names.insert(name).second)
    fault.set(fields.path_of("name"), fmt::format("\"{}\" is there twice", name));
  Json function = {{"name", name}};
  if (const auto description = fields.string("description")) function["description"] = *description;
  if (const Json* schema = fields.object("input_schema")) {
    function["parameters"] = *schema;
  } else {
    fault.set(fields.path_of("input_schema"), "the field is required");
  }
  if (fields.flag("strict", false)) function["strict"] = true;
  fields.ignore({"cache_control", "eager_input_streaming", "defer_loading", "allowed_callers"});
  fields.refuse_the_rest();
  return {{"type", "function"}, {"function", std::move(function)}};
}

}  // namespace

Json read_anthropic_messages(FieldReader& body) {
  Json made = Json::array();
  if (body.get("system") != nullptr) add_system(body, "system", /*leading=*/true, made);
  const Json* messages = body.list("messages");
  if (messages == nullptr || messages->empty()) {
    body.fault().set("messages",
                     messages == nullptr ? "the field is required" : "the list is empty");
    return made;
  }
  for (size_t i = 0; i < messages->size(); ++i) add_message((*messages)[i], i, made, body.fault());
  if (body.fault()) return made;
  if (const auto orphan = sort_tool_results(made)) {
    body.fault().set("messages",
                     fmt::format("the turn before has no tool_use block for the tool_use_id {}",
                                 made[*orphan]["tool_call_id"].dump()));
  }
  return made;
}

Json read_anthropic_tools(FieldReader& body) {
  const Json* tools = body.list("tools");
  if (tools == nullptr || tools->empty()) return nullptr;
  Json made = Json::array();
  std::set<std::string> names;
  for (const Json& tool : *tools) made.push_back(read_tool(tool, made.size(), names, body.fault()));
  return made;
}

AnthropicToolChoice read_anthropic_tool_choice(FieldReader& body, const Json& tools) {
  using Calls = text::OutputFormat::Calls;
  AnthropicToolChoice result;
  if (!tools.is_null()) result.calls = Calls::kFree;
  const Json* choice = body.object("tool_choice");
  if (choice == nullptr) return result;
  FieldReader fields(*choice, "tool_choice", body.fault());
  const std::string type = fields.string("type").value_or("");
  result.parallel = !fields.flag("disable_parallel_tool_use", false);
  if (type == "none") {
    result.calls = Calls::kNone;
  } else if (type == "any" || type == "tool") {
    result.calls = type == "any" ? Calls::kRequired : Calls::kOne;
    if (tools.is_null()) body.fault().set("tool_choice", "there are no tools to call");
  } else if (type != "auto") {
    body.fault().set("tool_choice.type", "expected \"auto\", \"any\", \"tool\" or \"none\"");
  }
  if (type == "tool") {
    result.name = fields.string("name").value_or("");
    const bool known = std::any_of(tools.begin(), tools.end(), [&](const Json& tool) {
      return tool["function"]["name"] == result.name;
    });
    if (!known)
      body.fault().set("tool_choice.name", fmt::format("\"{}\" is none of the tools", result.name));
  }
  fields.refuse_the_rest();
  return result;
}

std::vector<std::string> anthropic_schema_fields(const Json& tools) {
  std::vector<std::string> fields;
  for (size_t i = 0; i < tools.size(); ++i)
    fields.push_back(fmt::format("tools[{}].input_schema", i));
  return fields;
}

}  // namespace longshore::server
