#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace longshore::engine {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Generator::Generator(model::Model& model, Options options, KvPool pool)
    : model_(&model), options_(options), pool_(std::move(pool)) {
  sequence_of_.resize(static_cast<size_t>(options.chunk), 0);
  positions_.resize(static_cast<size_t>(options.chunk));
  logits_.resize(static_cast<size_t>(model.config().vocab_size));
}

Result<Generator> Generator::create(model::Model& model, const model::KvLayout& layout, const Options& options) {
  LS_CHECK(options.chunk >= 1 && options.chunk <= model.max_step_tokens());
  LS_CHECK(options.context_length >= 1);
  LS_TRY(KvPool pool, KvPool::create(layout, pages_for(options.context_length)));
  return Generator(model, options, std::move(pool));
}

Result<void> Generator::validate(const GenerationRequest& request) const {
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t vocab = model_->config().vocab_size;
  if (tokens == 0) return fail(ErrorKind::kUsage, "the prompt is empty: it must have at least one token");
  if (tokens >= options_.context_length) {
    return fail(ErrorKind::kUsage,
                "the prompt has {} tokens and the context holds {}, one of them for the answer: shorten the prompt or "
                "raise --context-length",
                tokens, options_.context_length);
  }
  for (int32_t id : request.prompt) {
    if (id < 0 || id >= vocab) {
      return fail(ErrorKind::kUsage, "the prompt has token id {}: the vocabulary has {}", id, vocab);
    }
  }
  for (int32_t id : request.stop_ids) {
    if (id < 0 || id >= vocab) {
      return fail(ErrorKind::kUsage, "the stop ids have token id {}: the vocabulary has {}", id,
                  vocab);
    }
  }
  if (request.min_tokens < 0)
    return fail(ErrorKind::kUsage, "min_tokens is {}: use at least 0", request.min_tokens);
  if (request.max_tokens < -1) return fail(ErrorKind::kUsage, "max_tokens is {}: use at least 0", request.max_tokens);
  return request.sampling.validate(vocab);
}

void Generator::reset() {
  cached_ids_.clear();
  pool_.shrink(pages_, 0);
}

int64_t Generator::reuse(std::span<const int32_t> prompt) {
  // The last prompt token is always run: its logits start the answer.
  const size_t limit = std::min(cached_ids_.size(), prompt.size() - 1);
  size_t common = 0;
  while (common < limit && cached_ids_[common] == prompt[common]) ++common;
  cached_ids_.resize(common);
  pool_.shrink(pages_, pages_for(static_cast<int64_t>(common)));
  return static_cast<int64_t>(common);
}

void Generator::step(std::span<const int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  const auto start = static_cast<int64_t>(cached_ids_.size());
  const bool grown = pool_.grow(pages_, pages_for(start + tokens));
  LS_CHECK_MSG(grown, "the pool holds the context, {} tokens, and {} were asked for", options_.context_length,
               start + tokens);
  std::iota(positions_.begin(), positions_.begin() + tokens, static_cast<int32_t>(start));
  const int32_t last = static_cast<int32_t>(tokens - 1);
  model::StepInput input;
  input.ids = ids.data();
  input.batch.tokens = tokens;
  input.batch.sequences = 1;
  input.batch.positions = positions_.data();
  input.batch.sequence_of = sequence_of_.data();
  input.batch.page_table = pages_.data();
  input.batch.page_table_width = static_cast<int64_t>(pages_.size());
  input.logit_rows = std::span(&last, 1);
  input.caches = pool_.caches();
  const auto vocab = static_cast<int64_t>(logits_.size());
  model::StepOutput output;
  output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, 1, vocab, vocab};
  model_->forward(input, output);
  cached_ids_.insert(cached_ids_.end(), ids.begin(), ids.end());
}

bool Generator::prefill(std::span<const int32_t> prompt, const CancelToken& cancel) {
  while (cached_ids_.size() < prompt.size()) {
    if (cancel.cancelled()) return false;
    const size_t done = cached_ids_.size();
    step(prompt.subspan(done, std::min(prompt.size() - done, static_cast<size_t>(options_.chunk))));
  }
  return true;
}

Result<GenerationResult> Generator::generate(const GenerationRequest& request,
                                             const std::function<bool(const Sampled&)>& on_token,
                                             const CancelToken& cancel) {
  LS_TRY_VOID(validate(request));
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t room = options_.context_length - prompt_tokens;
  const int64_t limit = request.max_tokens < 0 ? room : std::min(request.max_tokens, room);
  GenerationResult result;
  result.stats.prompt_tokens = prompt_tokens;
  if (limit == 0) return result;

  const auto start = std::chrono::steady_clock::now();
  result.stats.cached_tokens = reuse(request.prompt);
  const bool filled = prefill(request.prompt, cancel);
  result.stats.prefill_seconds = seconds_since(start);
  if (!filled) {
    result.reason = FinishReason::kCancelled;
    return result;
  }

  Sampler sampler(request.sampling, request.prompt);
  const auto first = std::chrono::steady_clock::now();
  const bool stops = !request.ignore_stop_ids;
  while (true) {
    const bool banned = stops && result.stats.output_tokens < request.min_tokens;
    const Sampled sampled =
        sampler.sample(logits_, banned ? std::span<const int32_t>(request.stop_ids) : std::span<const int32_t>());
    sampler.accept(sampled.id);
    ++result.stats.output_tokens;
    const bool go_on = on_token(sampled);
    if (stops && contains(request.stop_ids, sampled.id)) {
      result.reason = FinishReason::kStopId;
      break;
    }
    if (!go_on) {
      result.reason = FinishReason::kCallback;
      break;
    }
    if (result.stats.output_tokens >= limit) break;
    if (cancel.cancelled()) {
      result.reason = FinishReason::kCancelled;
      break;
    }
    step(std::span(&sampled.id, 1));
  }
  result.stats.decode_seconds = seconds_since(first);
  return result;
}

}  // namespace longshore::engine
