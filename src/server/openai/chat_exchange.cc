#include "server/openai/chat_exchange.h"

#include <utility>

#include "server/api/failure.h"
#include "server/openai/answer_parts.h"
#include "server/openai/errors.h"
#include "server/openai/logprobs.h"

namespace longshore::server {
namespace {

using Kind = text::OutputDelta::Kind;

}  // namespace

ChatExchange::ChatExchange(const session::LoadedModel& loaded, ChatCall call)
    : loaded_(loaded), call_(std::move(call)), choices_(static_cast<size_t>(call_.n)) {
  usage_.prompt = static_cast<int64_t>(call_.request.generation.prompt.size());
  head_ = to_text({{"id", call_.id},
                   {"object", "chat.completion.chunk"},
                   {"created", call_.created},
                   {"model", call_.model}});
  head_.back() = ',';  // the object goes on
  head_ += "\"choices\":";
}

std::vector<session::CompletionRequest> ChatExchange::take_requests() {
  return choices_of(call_.request, call_.n);
}

bool ChatExchange::wants_logprobs() const {
  return call_.request.generation.sampling.top_logprobs >= 0;
}

std::string ChatExchange::call_id(size_t choice, int index) const {
  return call_.ids.make("call_", choice, static_cast<uint64_t>(index));
}

std::string ChatExchange::event(const Json& choices, const Json& usage) const {
  std::string body = head_;
  body += to_text(choices);
  if (call_.stream.include_usage || call_.stream.continuous_usage) {
    body += ",\"usage\":";
    body += to_text(usage);
  }
  return sse_data(body += '}');
}

std::string ChatExchange::chunk(size_t choice, const Json& delta, const Json& finish_reason,
                                const Json& matched) {
  Json logprobs;
  if (!choices_[choice].logprobs.empty()) {
    logprobs = {{"content", std::exchange(choices_[choice].logprobs, Json::array())}};
  }
  Json made = {{"index", choice},
               {"delta", delta},
               {"logprobs", std::move(logprobs)},
               {"finish_reason", finish_reason},
               {"matched_stop", matched}};
  Json usage;
  if (call_.stream.continuous_usage) {
    usage = {{"prompt_tokens", usage_.prompt},
             {"total_tokens", usage_.prompt + tokens_},
             {"completion_tokens", tokens_},
             {"prompt_tokens_details", {{"cached_tokens", usage_.cached}}}};
  }
  return event(Json::array({std::move(made)}), usage);
}

std::string ChatExchange::begin(const engine::GenerationStats& stats) {
  usage_.cached = stats.cached_tokens;
  std::string events;
  for (size_t i = 0; i < choices_.size(); ++i)
    events += chunk(i, {{"role", "assistant"}, {"content", ""}});
  return events;
}

std::string ChatExchange::flush_reasoning(size_t choice) {
  std::string held = std::exchange(choices_[choice].held_reasoning, {});
  return held.empty() ? std::string() : chunk(choice, {{"reasoning_content", std::move(held)}});
}

std::string ChatExchange::show(size_t choice, const text::OutputDelta& delta) {
  switch (delta.kind) {
    case Kind::kReasoning:
      if (!call_.show_reasoning) return {};
      if (call_.stream_reasoning) return chunk(choice, {{"reasoning_content", delta.text}});
      choices_[choice].held_reasoning += delta.text;
      return {};
    case Kind::kContent:
      return flush_reasoning(choice) + chunk(choice, {{"content", delta.text}});
    case Kind::kToolCallBegin: {
      if (!shows_call(delta.call_index)) return {};
      const Json call = {{"index", delta.call_index},
                         {"id", call_id(choice, delta.call_index)},
                         {"type", "function"},
                         {"function", {{"name", delta.text}, {"arguments", ""}}}};
      return flush_reasoning(choice) + chunk(choice, {{"tool_calls", Json::array({call})}});
    }
    case Kind::kToolCallArgs: {
      if (!shows_call(delta.call_index)) return {};
      const Json call = {{"index", delta.call_index}, {"function", {{"arguments", delta.text}}}};
      return chunk(choice, {{"tool_calls", Json::array({call})}});
    }
    case Kind::kToolCallEnd:
      return {};
  }
  return {};
}

std::string ChatExchange::progress(size_t choice, const session::Progress& progress) {
  if (ended_) return {};
  if (progress.token) {
    ++tokens_;
    if (wants_logprobs() && !ends_text(call_.request, progress.token->id)) {
      choices_[choice].logprobs.push_back(chat_logprob(*loaded_.tokenizer, *progress.token));
    }
  }
  std::string events;
  for (const text::OutputDelta& delta : progress.deltas) events += show(choice, delta);
  return events;
}

std::string ChatExchange::finished(size_t choice, const session::Completion& completion) {
  if (ended_) return {};
  if (const auto failure = failure_of(completion)) return failed(*failure);
  usage_.add_choice(completion);
  std::string events = flush_reasoning(choice);
  events += chunk(choice, Json::object(), completion.finish_reason, matched_stop(completion));
  if (++finished_ < choices_.size()) return events;
  ended_ = true;
  if (call_.stream.include_usage) events += event(Json::array(), usage_.json());
  return events + std::string(kDone);
}

std::string ChatExchange::failed(const ApiError& error) {
  if (std::exchange(ended_, true)) return {};
  return sse_data(openai_error(error)) + std::string(kDone);
}

std::string ChatExchange::keep_alive(bool /*begun*/) const {
  return std::string(kSseComment);
}

Json ChatExchange::message(size_t choice, const session::Completion& completion) const {
  Json made = {
      {"role", "assistant"}, {"content", completion.content}, {"reasoning_content", nullptr}};
  if (call_.show_reasoning && !completion.reasoning.empty())
    made["reasoning_content"] = completion.reasoning;
  Json calls = Json::array();
  for (const session::ToolCall& call : completion.tool_calls) {
    const auto index = static_cast<int>(calls.size());
    if (!shows_call(index)) break;
    calls.push_back({{"id", call_id(choice, index)},
                     {"type", "function"},
                     {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  if (!calls.empty()) made["tool_calls"] = std::move(calls);
  return made;
}

std::string ChatExchange::response(const std::vector<session::Completion>& completions) const {
  Json choices = Json::array();
  Usage usage{.prompt = usage_.prompt};
  if (!completions.empty()) usage.cached = completions.front().stats.cached_tokens;
  for (size_t i = 0; i < completions.size(); ++i) {
    const session::Completion& completion = completions[i];
    usage.add_choice(completion);
    Json logprobs;
    if (wants_logprobs()) {
      logprobs = {{"content", Json::array()}};
      for (const engine::Sampled& token : completion.tokens) {
        if (!ends_text(call_.request, token.id)) {
          logprobs["content"].push_back(chat_logprob(*loaded_.tokenizer, token));
        }
      }
    }
    choices.push_back({{"index", i},
                       {"message", message(i, completion)},
                       {"logprobs", std::move(logprobs)},
                       {"finish_reason", completion.finish_reason},
                       {"matched_stop", matched_stop(completion)}});
  }
  return to_text({{"id", call_.id},
                  {"object", "chat.completion"},
                  {"created", call_.created},
                  {"model", call_.model},
                  {"choices", std::move(choices)},
                  {"usage", usage.json()}});
}

}  // namespace longshore::server
