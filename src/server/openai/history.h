// The `messages` and `tools` of a chat request, checked and put into the form that the chat
// template knows.
//
// Threading: free functions without state.
#pragma once

#include <string>
#include <vector>

#include "server/api/fields.h"
#include "text/grammar/output_grammar.h"

namespace longshore::server {

// developer becomes system (GLM's template drops developer), parts become one text, arguments
// become objects, tool results take the order of the calls, reasoning becomes reasoning_content.
Json read_messages(FieldReader& body);

// The list as it came, or null.
Json read_tools(FieldReader& body);

// tool_choice: none offers no tools, required and a named function force a call.
struct ToolChoice {
  text::OutputFormat::Calls calls = text::OutputFormat::Calls::kNone;
  std::string name;  // of the only function that may be called, or empty
};
ToolChoice read_tool_choice(FieldReader& body, const Json& tools);

// The fields of the tools' schemas.
std::vector<std::string> schema_fields(const Json& tools);

}  // namespace longshore::server
