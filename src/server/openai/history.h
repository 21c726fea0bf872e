// The `messages` and `tools` of a chat request, checked and put into the form that the chat
// template knows.
//
// Threading: free functions without state.
#pragma once

#include "server/api/fields.h"

namespace longshore::server {

// developer becomes system (GLM's template drops developer), parts become one text, arguments
// become objects, tool results take the order of the calls, reasoning becomes reasoning_content.
Json read_messages(FieldReader& body);

// The list as it came, or null.
Json read_tools(FieldReader& body);

// Tools are offered unless tool_choice is none. required and a named function are refused: nothing
// could force them.
bool tools_are_offered(FieldReader& body, const Json& tools);

}  // namespace longshore::server
