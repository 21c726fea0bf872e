// The model's output, token by token, into reasoning, content and tool calls (GLM's wire format:
// `reasoning</think>content<tool_call>NAME<arg_key>K</arg_key><arg_value>V</arg_value>...</tool_call>`).
//
// Works on partial streams: the concatenated deltas are the same however the text is split, and
// equal to parsing it whole.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "text/chat_template.h"

namespace longshore::text {

struct OutputDelta {
  enum class Kind {
    kReasoning,      // text: a piece of the think part
    kContent,        // text: a piece of the answer
    kToolCallBegin,  // call_index, text: the function's name
    kToolCallArgs,   // call_index, text: a piece of the arguments' JSON
    kToolCallEnd,    // call_index
  };
  Kind kind;
  int call_index = 0;
  std::string text;
};

struct OutputParserOptions {
  bool starts_in_reasoning = false;  // the prompt ended with <think>
  bool parse_reasoning = true;       // false: all of it, markers included, is content
  bool parse_tool_calls =
      true;               // false: markup of tool calls never shows in content, calls are dropped
  bool verbatim = false;  // without tool calls: what follows the reasoning is content as it stands
  Json tools;             // the request's tools (array) or null: their schemas type the arguments
};

// Threading: one stream, one thread.
class OutputParser {
 public:
  explicit OutputParser(const OutputParserOptions& options);
  ~OutputParser();
  OutputParser(OutputParser&&) noexcept;
  OutputParser& operator=(OutputParser&&) noexcept;

  // text: the next piece of decoded output, any split (whole UTF-8 characters).
  std::vector<OutputDelta> push(std::string_view text);
  // The end of the output. stopped: the model ended by itself (not cut by a length limit); then
  // reasoning without
  // `</think>` is promoted to content: the last deltas carry it as kContent.
  std::vector<OutputDelta> finish(bool stopped);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::text
