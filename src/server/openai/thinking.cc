#include "server/openai/thinking.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>

namespace longshore::server {
namespace {

constexpr std::array<std::string_view, 7> kEfforts = {"none", "minimal", "low", "medium",
                                                      "high", "xhigh",   "max"};

class Thinking {
 public:
  explicit Thinking(FieldReader& body) : fault_(body.fault()) {}

  void say(const std::string& field, bool on) {
    if (on_ && *on_ != on)
      fault_.set(field, fmt::format("contradicts {}: give one of them", said_by_));
    on_ = on;
    said_by_ = field;
  }

  void effort(FieldReader& fields, const char* name) {
    const auto level = fields.string(name);
    if (!level) return;
    const std::string path = fields.path_of(name);
    if (std::find(kEfforts.begin(), kEfforts.end(), *level) == kEfforts.end()) {
      fault_.set(path, fmt::format("\"{}\" is none of none, minimal, low, medium, high, xhigh, max",
                                   *level));
    } else if (*level == "none") {
      say(path, false);
    } else {
      effort_ = *level;
    }
  }

  void write(Json& variables) const {
    if (on_) variables["enable_thinking"] = *on_;
    if (!effort_.empty() && !variables.contains("reasoning_effort"))
      variables["reasoning_effort"] = effort_;
  }

 private:
  Fault& fault_;
  std::optional<bool> on_;
  std::string said_by_;
  std::string effort_;
};

Json read_kwargs(FieldReader& body, Thinking& thinking) {
  const Json* given = body.object("chat_template_kwargs");
  if (given == nullptr) return Json::object();
  Json variables = *given;
  FieldReader kwargs(variables, "chat_template_kwargs", body.fault());
  for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
    if (kwargs.get(name) != nullptr) {
      body.fault().set(kwargs.path_of(name), "the request's own fields give this: remove it");
    }
  }
  if (kwargs.get("enable_thinking") != nullptr) {
    thinking.say(kwargs.path_of("enable_thinking"), kwargs.flag("enable_thinking", true));
  }
  (void)kwargs.flag("clear_thinking", true);
  return variables;
}

void read_thinking(FieldReader& body, Thinking& thinking, Json& variables) {
  const Json* given = body.object("thinking");
  if (given == nullptr) return;
  FieldReader fields(*given, "thinking", body.fault());
  const auto type = fields.string("type");
  if (type && *type != "enabled" && *type != "disabled") {
    body.fault().set("thinking.type", "expected \"enabled\" or \"disabled\"");
  } else if (type) {
    thinking.say("thinking.type", *type == "enabled");
  }
  if (fields.get("clear_thinking") != nullptr)
    variables["clear_thinking"] = fields.flag("clear_thinking", true);
  fields.refuse("budget_tokens", "a budget for thinking is not supported: remove the field");
  fields.refuse_the_rest();
}

void read_reasoning(FieldReader& body, Thinking& thinking) {
  const Json* given = body.object("reasoning");
  if (given == nullptr) return;
  FieldReader fields(*given, "reasoning", body.fault());
  if (fields.get("enabled") != nullptr)
    thinking.say("reasoning.enabled", fields.flag("enabled", true));
  thinking.effort(fields, "effort");
  fields.refuse_the_rest();
}

}  // namespace

Json read_template_variables(FieldReader& body) {
  Thinking thinking(body);
  Json variables = read_kwargs(body, thinking);
  if (body.get("enable_thinking") != nullptr) {
    thinking.say("enable_thinking", body.flag("enable_thinking", true));
  }
  read_thinking(body, thinking, variables);
  read_reasoning(body, thinking);
  thinking.effort(body, "reasoning_effort");
  thinking.write(variables);
  return variables;
}

}  // namespace longshore::server
