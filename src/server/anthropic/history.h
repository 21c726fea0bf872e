// `system`, `messages` and `tools` of Anthropic's dialect in the form that the chat template knows.
//
// Threading: free functions without state.
#pragma once

#include <string>
#include <vector>

#include "server/api/fields.h"
#include "text/grammar/output_grammar.h"

namespace longshore::server {

// Blocks become messages: tool_result the role tool, tool_use tool_calls, thinking
// reasoning_content. Blocks of unknown types are skipped; images and documents are refused. What
// Claude Code writes into `system` anew for every request (billing header, <total_tokens>) is
// dropped, since it would make every prompt's beginning unlike the last one's.
Json read_anthropic_messages(FieldReader& body);

// In OpenAI's form, or null.
Json read_anthropic_tools(FieldReader& body);

struct AnthropicToolChoice {
  text::OutputFormat::Calls calls = text::OutputFormat::Calls::kNone;
  bool parallel = true;
  std::string name;  // of the only tool that may be called, or empty
};
AnthropicToolChoice read_anthropic_tool_choice(FieldReader& body, const Json& tools);

// The fields of the tools' schemas.
std::vector<std::string> anthropic_schema_fields(const Json& tools);

}  // namespace longshore::server
