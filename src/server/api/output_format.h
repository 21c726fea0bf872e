// What a request asks its output to be, compiled into a constraint.
//
// Threading: free functions without state.
#pragma once

#include <string>
#include <vector>

#include "server/api/fields.h"
#include "session/completion.h"
#include "text/grammar/output_grammar.h"

namespace longshore::server {

// The fields that the parts of a format came from, for faults.
struct FormatFields {
  std::string answer;              // of the schema or the grammar
  std::vector<std::string> tools;  // of the schema of each of the format's tools
};

// Sets the request's constraint where the format has one. A fault names the field, and the keyword
// in it.
void constrain(const session::LoadedModel& loaded, const text::OutputFormat& format,
               const FormatFields& fields, session::CompletionRequest& request, Fault& fault);

// The tools that a call may name, and how many calls there are. tools: those offered, null if none;
// paths: the field of each one's schema. name: of the only one that may be called, or empty.
void allow_calls(const Json& tools, const std::vector<std::string>& paths, const std::string& name,
                 text::OutputFormat& format, FormatFields& fields);

}  // namespace longshore::server
