// A chat request as JSON (messages, tools, template arguments) into the variables of a chat
// template.
#pragma once

#include "base/error.h"
#include "text/chat_template.h"

namespace longshore::session {

// request: {"messages": [...], "tools": [...], "chat_template_kwargs" or "kwargs": {...},
// "enable_thinking": bool, "add_generation_prompt": bool, ...}. Every other key becomes a template
// variable. add_generation_prompt defaults to true. Tool calls' arguments given as a JSON string
// become objects, which GLM's templates iterate. kUsage.
Result<text::Json> template_variables(const text::Json& request);

}  // namespace longshore::session
