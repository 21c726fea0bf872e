// One generation from prompt ids to parsed deltas: detokenise, find stop strings, split into
// reasoning, content and tool calls. What the commands and a server have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/request.h"
#include "session/loaded_model.h"
#include "text/chat_template.h"
#include "text/output_parser.h"

namespace longshore::session {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON
};

// What one token added. Text and deltas may lag behind the token: half characters and what may
// become a stop string or markup are held back.
struct Progress {
  std::optional<engine::Sampled>
      token;         // nothing in the last Progress, which lets out what was held back
  std::string text;  // raw
  std::vector<text::OutputDelta> deltas;  // with parse
};

struct Completion {
  std::vector<int32_t> ids;             // a stop id included
  std::vector<engine::Sampled> tokens;  // where logprobs were asked for
  std::string text;       // as generated, without stop id and stop string unless keep_stop
  std::string reasoning;  // with parse
  std::string content;
  std::vector<ToolCall> tool_calls;
  int64_t reasoning_tokens = 0;  // with parse: up to </think>, or as far as the reasoning went
  std::string finish_reason;     // "stop", "length", "tool_calls", "cancelled", "deadline", "error"
  std::string matched_stop;      // the stop string or the stop token's text
  std::optional<int32_t> matched_id;  // the stop token, if it was one
  std::optional<Error> error;         // with "error"
  engine::GenerationStats stats;
};

struct CompletionSink {
  // Once, when the request leaves the queue: stats holds prompt_tokens, cached_tokens,
  // queue_seconds. May be empty.
  std::function<void(const engine::GenerationStats&)> on_start;
  // After every token, and once more before on_finish; false: stop here. The progress may be moved
  // away. May be empty.
  std::function<bool(const Completion& so_far, Progress&)> on_progress;
  // Exactly once for every started completion. May be empty.
  std::function<void(Completion)> on_finish;
};

struct CompletionRequest {
  engine::GenerationRequest generation;  // stop_ids empty: the model's eos ids
  std::vector<std::string> stop;         // stop strings, not part of the output
  bool keep_stop = false;            // ... but part of it after all; so is the text of a stop token
  bool skip_special_tokens = false;  // special tokens leave no text
  bool parse = false;                // split into reasoning, content and tool calls
  text::OutputParserOptions parser;  // with parse
};

struct Job {
  CompletionRequest request;
  CompletionSink sink;
};

// Fills in eos ids and checks stop strings. kUsage.
Result<void> prepare(const LoadedModel& loaded, CompletionRequest& request);

// The listener that turns tokens into text for the sink. loaded outlives it; request has been
// prepared. Threading: the sink is called by whoever steps the engine.
engine::Listener make_listener(const LoadedModel& loaded, const CompletionRequest& request,
                               CompletionSink sink);

// Runs one completion on the calling thread, which must be the only one that uses loaded.engine. A
// fault is an error.
Result<Completion> complete(LoadedModel& loaded, CompletionRequest request, CompletionSink sink,
                            const CancelToken& cancel);

// Runs all of them as one batch on the calling thread; results in order. What `cancel` cuts short
// comes back as "cancelled", a fault as "error". kUsage, before any of them runs: a request that
// cannot be run.
Result<std::vector<Completion>> complete_all(LoadedModel& loaded, std::vector<Job> jobs,
                                             const CancelToken& cancel);

// Renders chat variables (messages, tools, ...) and encodes them. prompt: the rendered text, for
// messages and inspection.
struct RenderedPrompt {
  std::string text;
  std::vector<int32_t> ids;
  bool starts_in_reasoning = false;  // it ends with <think>
};
// Without the ids.
Result<RenderedPrompt> render_chat_text(const LoadedModel& loaded, const text::Json& variables);
Result<RenderedPrompt> render_chat(const LoadedModel& loaded, const text::Json& variables);

}  // namespace longshore::session
