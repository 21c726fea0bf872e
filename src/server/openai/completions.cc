#include "server/openai/completions.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "server/api/prompt_limit.h"
#include "server/openai/common.h"
#include "server/openai/completions_exchange.h"
#include "server/openai/lengths.h"

namespace longshore::server {
namespace {

constexpr int64_t kDefaultMaxTokens = 16;  // OpenAI's

struct Prompt {
  std::string text;  // what echo shows
  std::vector<int32_t> ids;
};

class PromptReader {
 public:
  PromptReader(const session::LoadedModel& loaded, bool skip_special, Fault& fault)
      : loaded_(loaded), skip_special_(skip_special), fault_(fault) {}

  std::vector<Prompt> read(const Json* prompt) {
    if (prompt == nullptr) {
      fault_.set("prompt", "the field is required");
      return {};
    }
    if (prompt->is_string()) return {of_text(*prompt, "prompt")};
    if (!prompt->is_array() || prompt->empty()) {
      fault_.set("prompt",
                 "expected a string, a list of strings, a list of token ids or a list of such "
                 "lists, not empty");
      return {};
    }
    if (prompt->front().is_number()) return {of_ids(*prompt, "prompt")};
    std::vector<Prompt> prompts;
    for (const Json& item : *prompt) {
      const std::string path = fmt::format("prompt[{}]", prompts.size());
      prompts.push_back(item.is_array() ? of_ids(item, path) : of_text(item, path));
    }
    return prompts;
  }

 private:
  Prompt of_text(const Json& text, const std::string& path) {
    if (!text.is_string()) {
      fault_.set(path,
                 fmt::format("expected a string or a list of token ids, got {}", type_name(text)));
      return {};
    }
    Prompt prompt;
    prompt.text = text.get<std::string>();
    if (!may_fit_context(loaded_, prompt.text, "prompt", fault_)) return {};
    auto ids = loaded_.tokenizer->encode(prompt.text);
    if (!ids) {
      fault_.set(path, ids.error().message);
    } else if (ids->empty()) {
      fault_.set(path, "an empty prompt has nothing to go on from: give some text");
    } else {
      prompt.ids = std::move(*ids);
    }
    return prompt;
  }

  Prompt of_ids(const Json& list, const std::string& path) {
    const int64_t vocab = loaded_.checkpoint->config().vocab_size;
    Prompt prompt;
    if (list.empty()) fault_.set(path, "an empty prompt has nothing to go on from: give some ids");
    for (const Json& item : list) {
      const bool good = item.is_number_integer() && item >= 0 && item < vocab;
      if (!good) {
        fault_.set(fmt::format("{}[{}]", path, prompt.ids.size()),
                   fmt::format("expected a token id in [0, {})", vocab));
        return prompt;
      }
      prompt.ids.push_back(item.get<int32_t>());
    }
    prompt.text = loaded_.tokenizer->decode(prompt.ids, skip_special_);
    return prompt;
  }

  const session::LoadedModel& loaded_;
  bool skip_special_;
  Fault& fault_;
};

void refuse_by_name(FieldReader& body, int64_t n) {
  body.refuse("suffix", "filling in the middle is not supported: remove the field");
  const auto best_of = body.integer("best_of", 1, 1 << 20);
  if (best_of && *best_of != n)
    body.fault().set("best_of", "not supported unless it equals n: remove it");
}

}  // namespace

ApiResult<std::unique_ptr<Exchange>> openai_completions(const session::LoadedModel& loaded,
                                                        const text::Json& body_json,
                                                        const ApiOptions& options) {
  Fault fault;
  FieldReader body(body_json, "", fault);
  const Ids ids;
  const int64_t most = most_choices(loaded, options);
  session::CompletionRequest request;
  TextCall call;
  call.model = options.served_model;
  call.created = unix_seconds();
  check_model(body, options, /*required=*/false);
  read_common(body);
  call.id = read_identity(body, ids, "cmpl-", request.generation);
  call.stream = read_stream(body);
  call.n = body.integer("n", 1, most).value_or(1);
  refuse_by_name(body, call.n);
  text::OutputFormat format;
  FormatFields format_fields;
  read_answer_format(body, format, format_fields);
  const auto logprobs = body.integer("logprobs", 0, 20);
  const bool echo = body.flag("echo", false);
  if (echo && logprobs)
    fault.set("echo", "not supported together with logprobs: the prompt's are not computed");
  read_generation(body, loaded, ids, static_cast<int32_t>(logprobs.value_or(-1)), request);
  const auto max_tokens = read_max_tokens(body, /*chat=*/false);
  const Json* prompt = body.get("prompt");
  body.refuse_the_rest();
  constrain(loaded, format, format_fields, request, fault);
  if (fault) return tl::unexpected(fault.error());
  for (Prompt& one : PromptReader(loaded, request.skip_special_tokens, fault).read(prompt)) {
    if (echo) call.echo.push_back(std::move(one.text));
    call.prompts.push_back(request);
    engine::GenerationRequest& generation = call.prompts.back().generation;
    const int64_t room = context_length(loaded) - static_cast<int64_t>(one.ids.size());
    generation.prompt = std::move(one.ids);
    generation.max_tokens = max_tokens.value_or(std::clamp<int64_t>(room, 1, kDefaultMaxTokens));
    if (!fault) check_lengths(loaded, generation, "prompt", fault);
  }
  const auto choices = static_cast<int64_t>(call.prompts.size()) * call.n;
  if (choices > most) {
    fault.set("prompt", fmt::format("{} choices in all: at most {} are taken", choices, most));
  }
  if (fault) return tl::unexpected(fault.error());
  return std::make_unique<CompletionsExchange>(loaded, std::move(call));
}

}  // namespace longshore::server
