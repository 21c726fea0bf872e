// The grammar of a whole output: reasoning up to `</think>`, then an answer, tool calls, or either.
//
// Calls are in GLM's format without blanks:
// `<tool_call>NAME<arg_key>K</arg_key><arg_value>V</arg_value>
// ...</tool_call>`. Tags that the vocabulary has as added tokens are written with these and nothing
// else. A strict tool's arguments come in the schema's order, a string as bare text without tags of
// calls, everything else as JSON; arguments that the schema does not name are not written.
// Threading: free functions.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/grammar/grammar.h"

namespace longshore::text {

struct OutputFormat {
  // What the answer is; at most one of the two. Neither: free text, unless a call is required.
  std::optional<Json> schema = {};
  std::optional<std::string> gbnf = {};

  enum class Calls {
    kNone,      // no tools are offered
    kFree,      // calls or an answer, as the model likes
    kRequired,  // one call or more
    kOne,       // exactly one
  };
  Calls calls = Calls::kNone;
  Json tools = {};  // OpenAI's form: function.name, parameters, strict; those that may be called
  bool one_call = false;  // with kFree, kRequired: no second call

  bool starts_in_reasoning = false;  // the prompt ended with <think>

  // False: nothing is asked for, any output will do.
  [[nodiscard]] bool constrains() const;
  // Equal for equal formats.
  [[nodiscard]] std::string key() const;
};

// Which texts are added tokens of the vocabulary.
using IsAddedToken = std::function<bool(std::string_view)>;

// kUsage: what is wrong, with the place in the schema or the line of the grammar; `part` names the
// part of the format: "schema", "grammar", or "tools[i]".
struct FormatFault {
  std::string part;
  std::string message;
};
tl::expected<Grammar, FormatFault> output_grammar(const OutputFormat& format,
                                                  const IsAddedToken& is_added);

}  // namespace longshore::text
