#include "session/completion.h"

#include "session/stop_strings.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

namespace longshore::session {
namespace {

// Receives text in order and builds the Completion.
class Assembler {
 public:
  Assembler(const CompletionRequest& request, const CompletionSink& sink, Completion& completion)
      : sink_(sink), completion_(completion) {
    if (request.parse) parser_.emplace(request.parser);
  }

  void add(const std::string& text) {
    if (text.empty()) return;
    completion_.text += text;
    if (sink_.on_text) sink_.on_text(text);
    if (parser_) apply(parser_->push(text));
  }

  void finish(bool stopped) {
    if (parser_) apply(parser_->finish(stopped));
  }

 private:
  void apply(const std::vector<text::OutputDelta>& deltas) {
    using Kind = text::OutputDelta::Kind;
    for (const text::OutputDelta& delta : deltas) {
      if (delta.kind == Kind::kReasoning) completion_.reasoning += delta.text;
      if (delta.kind == Kind::kContent) completion_.content += delta.text;
      if (delta.kind == Kind::kToolCallBegin) completion_.tool_calls.push_back({delta.text, ""});
      if (delta.kind == Kind::kToolCallArgs) completion_.tool_calls.back().arguments += delta.text;
      if (sink_.on_delta) sink_.on_delta(delta);
    }
  }

  const CompletionSink& sink_;
  Completion& completion_;
  std::optional<text::OutputParser> parser_;
};

std::string finish_reason(engine::FinishReason reason, const Completion& completion, bool matched) {
  switch (reason) {
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kCancelled:
      return "cancelled";
    case engine::FinishReason::kCallback:
      if (!matched) return "cancelled";
      [[fallthrough]];
    case engine::FinishReason::kStopId:
      return completion.tool_calls.empty() ? "stop" : "tool_calls";
  }
  LS_FAIL("unknown finish reason {}", static_cast<int>(reason));
}

}  // namespace

Result<Completion> complete(LoadedModel& loaded, CompletionRequest request, const CompletionSink& sink,
                            const CancelToken& cancel) {
  LS_CHECK(loaded.tokenizer.has_value());
  engine::GenerationRequest& generation = request.generation;
  if (generation.stop_ids.empty()) generation.stop_ids = loaded.defaults.eos_ids;
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return fail(ErrorKind::kUsage, "stop: an empty string would stop at once; remove it");
    if (const auto at = text::find_invalid_utf8(stop)) {
      return fail(ErrorKind::kUsage, "stop: a string is not valid UTF-8: byte {}", *at);
    }
  }
  Completion completion;
  Assembler assembler(request, sink, completion);
  text::StreamDetokenizer detokenizer(*loaded.tokenizer);
  StopStrings stops(request.stop);
  const auto is_stop = [&](int32_t id) {
    return !generation.ignore_stop_ids &&
           std::find(generation.stop_ids.begin(), generation.stop_ids.end(), id) != generation.stop_ids.end();
  };
  const auto on_token = [&](const engine::Sampled& sampled) {
    completion.ids.push_back(sampled.id);
    if (generation.sampling.top_logprobs >= 0) completion.tokens.push_back(sampled);
    if (is_stop(sampled.id)) {
      completion.matched_stop = loaded.tokenizer->bytes(sampled.id);
      return true;
    }
    assembler.add(stops.push(detokenizer.push(sampled.id)));
    if (!stops.matched().empty()) return false;
    return !sink.keep_going || sink.keep_going(completion.text);
  };
  LS_TRY(const engine::GenerationResult result, loaded.generator->generate(generation, on_token, cancel));
  if (stops.matched().empty()) {
    assembler.add(stops.push(detokenizer.finish()));
    assembler.add(stops.finish());
  }
  const bool matched = !stops.matched().empty();
  if (matched) completion.matched_stop = stops.matched();
  assembler.finish(result.reason == engine::FinishReason::kStopId || matched);
  completion.finish_reason = finish_reason(result.reason, completion, matched);
  completion.stats = result.stats;
  return completion;
}

Result<RenderedPrompt> render_chat(const LoadedModel& loaded, const text::Json& variables) {
  LS_CHECK(loaded.chat_template.has_value() && loaded.tokenizer.has_value());
  RenderedPrompt prompt;
  LS_TRY(prompt.text, loaded.chat_template->render(variables));
  LS_TRY(prompt.ids, loaded.tokenizer->encode(prompt.text));
  prompt.starts_in_reasoning = prompt.text.ends_with("<think>") || prompt.text.ends_with("<think>\n");
  return prompt;
}

}  // namespace longshore::session
