#include "server/openai/completions_exchange.h"

#include <utility>

#include "server/api/failure.h"
#include "server/openai/answer_parts.h"
#include "server/openai/errors.h"

namespace longshore::server {

namespace {

// Tokens from here on are not shown: a stop string has cut their text off.
size_t logprobs_end(const session::Completion& completion) {
  const bool by_string = !completion.matched_stop.empty() && !completion.matched_id;
  return by_string ? completion.text.size() : LegacyLogprobs::kAll;
}

}  // namespace

CompletionsExchange::CompletionsExchange(const session::LoadedModel& loaded, TextCall call)
    : loaded_(loaded),
      call_(std::move(call)),
      logprobs_(call_.prompts.size() * static_cast<size_t>(call_.n)),
      shown_(logprobs_.size(), 0) {
  for (const session::CompletionRequest& prompt : call_.prompts) {
    usage_.prompt += static_cast<int64_t>(prompt.generation.prompt.size());
  }
}

std::vector<session::CompletionRequest> CompletionsExchange::take_requests() {
  std::vector<session::CompletionRequest> all;
  for (const session::CompletionRequest& prompt : call_.prompts) {
    for (session::CompletionRequest& choice : choices_of(prompt, call_.n))
      all.push_back(std::move(choice));
  }
  return all;
}

bool CompletionsExchange::wants_logprobs() const {
  return call_.prompts.front().generation.sampling.top_logprobs >= 0;
}

// The cached tokens of a prompt count once, like the prompt.
void CompletionsExchange::count(Usage& usage, size_t choice,
                                const session::Completion& completion) const {
  usage.add_choice(completion);
  if (choice % static_cast<size_t>(call_.n) == 0) usage.cached += completion.stats.cached_tokens;
}

Json CompletionsExchange::envelope(Json choices) const {
  return {{"id", call_.id},
          {"object", "text_completion"},
          {"created", call_.created},
          {"model", call_.model},
          {"choices", std::move(choices)}};
}

std::string CompletionsExchange::chunk(size_t choice, const std::string& text,
                                       const Json& finish_reason, const Json& matched) {
  Json made = {{"index", choice},
               {"text", text},
               {"logprobs", nullptr},
               {"finish_reason", finish_reason},
               {"matched_stop", matched}};
  if (logprobs_[choice].has_before(shown_[choice]))
    made["logprobs"] = logprobs_[choice].take_before(shown_[choice]);
  Json body = envelope(Json::array({std::move(made)}));
  if (call_.stream.continuous_usage) {
    body["usage"] = {{"prompt_tokens", usage_.prompt},
                     {"total_tokens", usage_.prompt + tokens_},
                     {"completion_tokens", tokens_}};
  } else if (call_.stream.include_usage) {
    body["usage"] = nullptr;
  }
  return sse_data(to_text(body));
}

std::string CompletionsExchange::begin(const engine::GenerationStats& /*stats*/) {
  std::string events;
  if (call_.echo.empty()) return events;
  for (size_t i = 0; i < logprobs_.size(); ++i) events += chunk(i, call_.echo[prompt_of(i)]);
  return events;
}

void CompletionsExchange::add_logprob(LegacyLogprobs& logprobs,
                                      const engine::Sampled& token) const {
  const session::CompletionRequest& request = call_.prompts.front();
  if (ends_text(request, token.id)) return;
  const text::Tokenizer& tokenizer = *loaded_.tokenizer;
  logprobs.add(tokenizer, token, !request.skip_special_tokens || !tokenizer.is_special(token.id));
}

std::string CompletionsExchange::progress(size_t choice, const session::Progress& progress) {
  if (ended_) return {};
  if (progress.token) {
    ++tokens_;
    if (wants_logprobs()) add_logprob(logprobs_[choice], *progress.token);
  }
  shown_[choice] += progress.text.size();
  return progress.text.empty() ? std::string() : chunk(choice, progress.text);
}

std::string CompletionsExchange::finished(size_t choice, const session::Completion& completion) {
  if (ended_) return {};
  if (const auto failure = failure_of(completion)) return failed(*failure);
  count(usage_, choice, completion);
  shown_[choice] = logprobs_end(completion);
  std::string events = chunk(choice, "", completion.finish_reason, matched_stop(completion));
  if (++finished_ < logprobs_.size()) return events;
  ended_ = true;
  if (call_.stream.include_usage) {
    Json last = envelope(Json::array());
    last["usage"] = usage_.json();
    events += sse_data(to_text(last));
  }
  return events + std::string(kDone);
}

std::string CompletionsExchange::failed(const ApiError& error) {
  if (std::exchange(ended_, true)) return {};
  return sse_data(openai_error(error)) + std::string(kDone);
}

std::string CompletionsExchange::keep_alive(bool /*begun*/) const {
  return std::string(kSseComment);
}

std::string CompletionsExchange::response(
    const std::vector<session::Completion>& completions) const {
  Json choices = Json::array();
  Usage usage{.prompt = usage_.prompt};
  for (size_t i = 0; i < completions.size(); ++i) {
    const session::Completion& completion = completions[i];
    count(usage, i, completion);
    Json logprobs;
    if (wants_logprobs()) {
      LegacyLogprobs all;
      for (const engine::Sampled& token : completion.tokens) add_logprob(all, token);
      logprobs = all.take_before(logprobs_end(completion));
    }
    const std::string echo = call_.echo.empty() ? "" : call_.echo[prompt_of(i)];
    choices.push_back({{"index", i},
                       {"text", echo + completion.text},
                       {"logprobs", std::move(logprobs)},
                       {"finish_reason", completion.finish_reason},
                       {"matched_stop", matched_stop(completion)}});
  }
  Json body = envelope(std::move(choices));
  body["usage"] = usage.json();
  return to_text(body);
}

}  // namespace longshore::server
