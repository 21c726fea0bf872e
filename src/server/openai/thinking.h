// The many names under which clients turn thinking on and off.
//
// Threading: free functions without state.
#pragma once

#include "server/api/fields.h"

namespace longshore::server {

// chat_template_kwargs, reasoning_effort, reasoning{enabled,effort}, thinking{type,clear_thinking}
// as variables of the chat template. Two that contradict each other are a fault.
Json read_template_variables(FieldReader& body);

}  // namespace longshore::server
