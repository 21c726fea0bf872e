// Messages that a dialect has put in order to the prompt's token ids.
//
// Threading: free functions without state.
#pragma once

#include <cstddef>
#include <optional>

#include "server/api/fields.h"
#include "session/completion.h"

namespace longshore::server {

struct ChatPrompt {
  Json
      messages;  // roles system, user, assistant, tool; contents are strings; arguments are objects
  Json tools;    // OpenAI's form, or null
  Json template_variables = Json::object();  // enable_thinking and what else the template knows
  bool add_generation_prompt = true;         // the next turn's opening ends the prompt
  bool continue_final_message = false;  // the last message, an assistant's, is to be written on
};

// The faults name `messages`, or the field that asked for the continuation.
session::RenderedPrompt render_prompt(const session::LoadedModel& loaded, const ChatPrompt& prompt,
                                      const char* continuation_field, Fault& fault);

// Tool results have no ids in GLM's format, so the results of one turn take the order of its calls.
// Where one has no tool_call_id the order stays. Returned: the index of a result whose id none of
// those calls has.
std::optional<size_t> sort_tool_results(Json& messages);

}  // namespace longshore::server
