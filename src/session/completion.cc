#include "session/completion.h"

#include <algorithm>

#include "session/stop_strings.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

namespace longshore::session {
namespace {

std::string finish_reason(engine::FinishReason reason, const Completion& completion, bool matched) {
  switch (reason) {
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kCancelled:
      return "cancelled";
    case engine::FinishReason::kDeadline:
      return "deadline";
    case engine::FinishReason::kFault:
      return "error";
    case engine::FinishReason::kCallback:
      if (!matched) return "cancelled";
      [[fallthrough]];
    case engine::FinishReason::kStopId:
      return completion.tool_calls.empty() ? "stop" : "tool_calls";
  }
  LS_FAIL("unknown finish reason {}", static_cast<int>(reason));
}

// Receives tokens in order, builds the Completion and tells the sink.
class Assembler {
 public:
  Assembler(const LoadedModel& loaded, const CompletionRequest& request, CompletionSink sink)
      : tokenizer_(*loaded.tokenizer),
        keep_stop_(request.keep_stop),
        want_tokens_(request.generation.sampling.top_logprobs >= 0),
        stop_ids_(request.generation.stop_ids),
        ignore_stop_ids_(request.generation.ignore_stop_ids),
        min_tokens_(request.generation.min_tokens),
        detokenizer_(tokenizer_, request.skip_special_tokens),
        stops_(request.stop, request.keep_stop),
        sink_(std::move(sink)) {
    if (!request.parse) return;
    parser_.emplace(request.parser);
    if (request.parser.starts_in_reasoning) think_end_ = tokenizer_.id_of("</think>");
  }

  void start(const engine::GenerationStats& stats) {
    completion_.stats = stats;
    if (sink_.on_start) sink_.on_start(stats);
  }

  bool token(const engine::Sampled& sampled) {
    Progress progress;
    progress.token = sampled;
    completion_.ids.push_back(sampled.id);
    if (want_tokens_) completion_.tokens.push_back(sampled);
    if (think_end_ && sampled.id == *think_end_) {
      completion_.reasoning_tokens = static_cast<int64_t>(completion_.ids.size());
      think_end_.reset();
    }
    if (is_stop_id(sampled.id)) {
      completion_.matched_stop = tokenizer_.bytes(sampled.id);
      completion_.matched_id = sampled.id;
      if (keep_stop_) add(stops_.push(detokenizer_.push(sampled.id)), progress);
    } else {
      // As with stop ids, a stop string cannot come before min_tokens.
      const bool early = static_cast<int64_t>(completion_.ids.size()) <= min_tokens_;
      const std::string text = detokenizer_.push(sampled.id);
      add(early ? text : stops_.push(text), progress);
    }
    const bool wanted = !sink_.on_progress || sink_.on_progress(completion_, progress);
    return wanted && stops_.matched().empty();
  }

  void finish(const engine::GenerationResult& result) {
    Progress progress;
    if (stops_.matched().empty()) {
      add(stops_.push(detokenizer_.finish()), progress);
      add(stops_.finish(), progress);
    }
    const bool matched = !stops_.matched().empty();
    if (matched) completion_.matched_stop = stops_.matched();
    const bool stopped = result.reason == engine::FinishReason::kStopId || matched;
    const bool had_content = !completion_.content.empty() || !completion_.tool_calls.empty();
    if (parser_) apply(parser_->finish(stopped), progress);
    // Reasoning that never ended and now shows as the answer.
    if (think_end_ && !had_content && !completion_.content.empty())
      completion_.reasoning_tokens = 0;
    completion_.stats = result.stats;
    completion_.error = result.error;
    completion_.finish_reason = finish_reason(result.reason, completion_, matched);
    if (sink_.on_progress) (void)sink_.on_progress(completion_, progress);
    if (sink_.on_finish) sink_.on_finish(std::move(completion_));
  }

 private:
  [[nodiscard]] bool is_stop_id(int32_t id) const {
    return !ignore_stop_ids_ &&
           std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
  }

  void add(const std::string& text, Progress& progress) {
    if (text.empty()) return;
    completion_.text += text;
    progress.text += text;
    if (parser_) apply(parser_->push(text), progress);
  }

  void apply(std::vector<text::OutputDelta> deltas, Progress& progress) {
    using Kind = text::OutputDelta::Kind;
    for (text::OutputDelta& delta : deltas) {
      if (delta.kind == Kind::kReasoning) {
        completion_.reasoning += delta.text;
        if (think_end_) completion_.reasoning_tokens = static_cast<int64_t>(completion_.ids.size());
      }
      if (delta.kind == Kind::kContent) completion_.content += delta.text;
      if (delta.kind == Kind::kToolCallBegin) completion_.tool_calls.push_back({delta.text, ""});
      if (delta.kind == Kind::kToolCallArgs) completion_.tool_calls.back().arguments += delta.text;
      progress.deltas.push_back(std::move(delta));
    }
  }

  const text::Tokenizer& tokenizer_;
  bool keep_stop_;
  bool want_tokens_;
  std::vector<int32_t> stop_ids_;
  bool ignore_stop_ids_;
  int64_t min_tokens_;
  text::StreamDetokenizer detokenizer_;
  StopStrings stops_;
  std::optional<text::OutputParser> parser_;
  std::optional<int32_t> think_end_;  // still inside the reasoning
  CompletionSink sink_;
  Completion completion_;
};

}  // namespace

Result<void> prepare(const LoadedModel& loaded, CompletionRequest& request) {
  if (request.generation.stop_ids.empty()) request.generation.stop_ids = loaded.defaults.eos_ids;
  // The constraint's end is the output's, and only a stop id can say so.
  if (request.generation.constraint) request.generation.ignore_stop_ids = false;
  for (const std::string& stop : request.stop) {
    if (stop.empty())
      return fail(ErrorKind::kUsage, "stop: an empty string would stop at once; remove it");
    if (const auto at = text::find_invalid_utf8(stop)) {
      return fail(ErrorKind::kUsage, "stop: a string is not valid UTF-8: byte {}", *at);
    }
  }
  return {};
}

engine::Listener make_listener(const LoadedModel& loaded, const CompletionRequest& request,
                               CompletionSink sink) {
  LS_CHECK(loaded.tokenizer.has_value());
  auto assembler = std::make_shared<Assembler>(loaded, request, std::move(sink));
  return {
      .on_start = [assembler](const engine::GenerationStats& stats) { assembler->start(stats); },
      .on_token = [assembler](const engine::Sampled& sampled) { return assembler->token(sampled); },
      .on_finish =
          [assembler](const engine::GenerationResult& result) { assembler->finish(result); }};
}

Result<std::vector<Completion>> complete_all(LoadedModel& loaded, std::vector<Job> jobs,
                                             const CancelToken& cancel) {
  engine::Engine& engine = *loaded.engine;
  for (Job& job : jobs) {
    LS_TRY_VOID(prepare(loaded, job.request));
    LS_TRY_VOID(engine.validate(job.request.generation));
  }
  std::vector<Completion> completions(jobs.size());
  std::vector<engine::RequestId> ids;
  for (size_t i = 0; i < jobs.size(); ++i) {
    CompletionSink sink = std::move(jobs[i].sink);
    sink.on_finish = [&completions, i, heard = std::move(sink.on_finish)](Completion completion) {
      completions[i] = std::move(completion);
      if (heard) heard(completions[i]);
    };
    engine::Listener listener = make_listener(loaded, jobs[i].request, std::move(sink));
    const auto id = engine.submit(std::move(jobs[i].request.generation), std::move(listener),
                                  engine::QueueLimit::kIgnored);
    LS_CHECK_MSG(id.has_value(), "{}", id.error().message);
    ids.push_back(*id);
  }
  engine.set_interrupt(&cancel);
  bool told = false;
  while (!engine.idle()) {
    if (!told && cancel.cancelled()) {
      for (const engine::RequestId id : ids) engine.cancel(id);
      told = true;
    }
    engine.step();
  }
  engine.set_interrupt(nullptr);
  return completions;
}

Result<Completion> complete(LoadedModel& loaded, CompletionRequest request, CompletionSink sink,
                            const CancelToken& cancel) {
  std::vector<Job> jobs;
  jobs.push_back({std::move(request), std::move(sink)});
  LS_TRY(std::vector<Completion> completions, complete_all(loaded, std::move(jobs), cancel));
  if (completions.front().error) return tl::unexpected<Error>(*completions.front().error);
  return std::move(completions.front());
}

Result<RenderedPrompt> render_chat_text(const LoadedModel& loaded, const text::Json& variables) {
  LS_CHECK(loaded.chat_template.has_value() && loaded.tokenizer.has_value());
  RenderedPrompt prompt;
  LS_TRY(prompt.text, loaded.chat_template->render(variables));
  prompt.starts_in_reasoning =
      prompt.text.ends_with("<think>") || prompt.text.ends_with("<think>\n");
  return prompt;
}

Result<RenderedPrompt> render_chat(const LoadedModel& loaded, const text::Json& variables) {
  LS_TRY(RenderedPrompt prompt, render_chat_text(loaded, variables));
  LS_TRY(prompt.ids, loaded.tokenizer->encode(prompt.text));
  return prompt;
}

}  // namespace longshore::session
