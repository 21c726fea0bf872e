// One generation from prompt ids to parsed deltas: detokenise, find stop strings, split into reasoning, content and tool
// calls. What the commands and a server have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/generator.h"
#include "session/loaded_model.h"
#include "text/chat_template.h"
#include "text/output_parser.h"

namespace longshore::session {

struct CompletionRequest {
  engine::GenerationRequest generation;  // stop_ids empty: the model's eos ids
  std::vector<std::string> stop;         // stop strings, not part of the output
  bool parse = false;                    // split into reasoning, content and tool calls
  text::OutputParserOptions parser;      // with parse
};

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
};

struct Completion {
  std::vector<int32_t> ids;             // a stop id included
  std::vector<engine::Sampled> tokens;  // where logprobs were asked for
  std::string text;                     // as generated, without stop id and stop string
  std::string reasoning;                // with parse
  std::string content;
  std::vector<ToolCall> tool_calls;
  std::string finish_reason;            // "stop", "length", "tool_calls", "cancelled"
  std::string matched_stop;             // the stop string or the stop token's text
  engine::GenerationStats stats;
};

struct CompletionSink {
  std::function<void(const text::OutputDelta&)> on_delta;    // with parse; may be empty
  std::function<void(std::string_view)> on_text;             // raw text; may be empty
  std::function<bool(std::string_view)> keep_going;          // asked after each token with all text so far; may be empty
};

// with_text must have been loaded.
Result<Completion> complete(LoadedModel& loaded, CompletionRequest request, const CompletionSink& sink,
                            const CancelToken& cancel);

// Renders chat variables (messages, tools, ...) and encodes them. prompt: the rendered text, for messages and inspection.
struct RenderedPrompt {
  std::string text;
  std::vector<int32_t> ids;
  bool starts_in_reasoning = false;  // it ends with <think>
};
Result<RenderedPrompt> render_chat(const LoadedModel& loaded, const text::Json& variables);

}  // namespace longshore::session
