#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace longshore::engine {
namespace {

double seconds_between(Sequence::Clock::time_point from, Sequence::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// One context at least; more while every running request has not its own and a quarter of the
// host's memory, or four fifths of what a device has left, is not used up.
int64_t default_pages(const EngineOptions& options, const model::KvLayout& layout) {
  const int64_t context = pages_for(options.context_length);
  const int64_t available = layout.memory->available();
  const int64_t budget = layout.memory->host() ? available / 4 : available / 5 * 4;
  const int64_t affordable = budget / layout.page_bytes();
  return std::clamp(affordable, context, context * options.max_running);
}

Error not_finite(const Sequence& sequence) {
  return {ErrorKind::kModel,
          fmt::format("the model gave logits that are not finite after {} tokens: a weight is "
                      "broken (see `longshore inspect`) or the arithmetic overflowed",
                      sequence.ids.size())};
}

}  // namespace

Engine::Engine(model::Model& model, ThreadPool& threads, const EngineOptions& options, KvPool pool)
    : model_(&model),
      threads_(&threads),
      options_(options),
      pool_(std::move(pool)),
      prefixes_(pool_, options.prefix_cache),
      scheduler_(prefixes_,
                 {.max_running = options.max_running, .prefill_budget = options.prefill_budget}) {
  counters_.pages = counters_.free_pages = pool_.capacity();
}

Result<std::unique_ptr<Engine>> Engine::create(model::Model& model, const model::KvLayout& layout,
                                               ThreadPool& threads, const EngineOptions& asked) {
  LS_CHECK(asked.context_length >= 1 && asked.max_running >= 1 && asked.prefill_budget >= 1);
  const model::StepLimits& limits = model.limits();
  LS_CHECK_MSG(asked.prefill_budget + asked.max_running <= limits.tokens,
               "a step of {} + {} tokens and room for {}", asked.prefill_budget, asked.max_running,
               limits.tokens);
  LS_CHECK_MSG(asked.max_running <= limits.sequences, "a step of {} sequences and room for {}",
               asked.max_running, limits.sequences);
  LS_CHECK_MSG(limits.context == 0 || asked.context_length <= limits.context,
               "a context of {} and room for {}", asked.context_length, limits.context);
  EngineOptions options = asked;
  if (options.pages == 0) options.pages = default_pages(options, layout);
  if (options.pages < pages_for(options.context_length)) {
    return fail(ErrorKind::kUsage,
                "the cache holds {} tokens and one context has {}: raise --max-total-tokens or "
                "lower --context-length",
                options.pages * kernels::kPageTokens, options.context_length);
  }
  LS_TRY(KvPool pool, KvPool::create(layout, options.pages));
  return std::unique_ptr<Engine>(new Engine(model, threads, options, std::move(pool)));
}

Result<void> Engine::validate(const GenerationRequest& request) const {
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t vocab = model_->config().vocab_size;
  if (tokens == 0)
    return fail(ErrorKind::kUsage, "the prompt is empty: it must have at least one token");
  if (tokens >= options_.context_length) {
    return fail(ErrorKind::kUsage,
                "the prompt has {} tokens and the context holds {}, one of them for the answer: "
                "shorten the prompt or "
                "raise --context-length",
                tokens, options_.context_length);
  }
  for (int32_t id : request.prompt) {
    if (id < 0 || id >= vocab)
      return fail(ErrorKind::kUsage, "the prompt has token id {}: the vocabulary has {}", id,
                  vocab);
  }
  for (int32_t id : request.stop_ids) {
    if (id < 0 || id >= vocab)
      return fail(ErrorKind::kUsage, "the stop ids have token id {}: the vocabulary has {}", id,
                  vocab);
  }
  if (request.min_tokens < 0)
    return fail(ErrorKind::kUsage, "min_tokens is {}: use at least 0", request.min_tokens);
  if (request.max_tokens < -1)
    return fail(ErrorKind::kUsage, "max_tokens is {}: use at least 0", request.max_tokens);
  return request.sampling.validate(vocab);
}

Result<RequestId> Engine::submit(GenerationRequest request, Listener listener, QueueLimit limit) {
  LS_TRY_VOID(validate(request));
  if (limit == QueueLimit::kKept && options_.max_queued >= 0 &&
      scheduler_.waiting() >= options_.max_queued) {
    return fail(ErrorKind::kBusy, "the queue is full, {} requests may wait: try again later",
                options_.max_queued);
  }
  const RequestId id = next_id_++;
  auto sequence = std::make_unique<Sequence>(id, std::move(request), std::move(listener));
  const int64_t room = options_.context_length - sequence->stats.prompt_tokens;
  const int64_t wanted = sequence->request.max_tokens;
  sequence->output_limit = wanted < 0 ? room : std::min(wanted, room);
  sequence->constrain(model_->config().vocab_size);
  scheduler_.add(*sequence);
  sequences_.emplace(id, std::move(sequence));
  counters_.queued = scheduler_.waiting();
  return id;
}

void Engine::cancel(RequestId id) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) found->second->cancelled = true;
}

namespace {

Error fault_of(const Sequence& sequence) {
  if (sequence.allowed_known) {
    const std::string_view why = sequence.constraint->fault();
    return Error{ErrorKind::kUsage,
                 fmt::format("the constraint on the output allows no token after {} tokens: {}",
                             sequence.stats.output_tokens,
                             why.empty() ? "no text of this vocabulary can go on here" : why)};
  }
  return not_finite(sequence);
}

}  // namespace

void Engine::finish(Sequence& sequence, FinishReason reason, std::optional<Error> error) {
  const auto now = Sequence::Clock::now();
  if (!sequence.started) sequence.stats.queue_seconds = seconds_between(sequence.submitted, now);
  if (sequence.stats.output_tokens > 0)
    sequence.stats.decode_seconds = seconds_between(sequence.first_token, now);
  scheduler_.remove(sequence, reason != FinishReason::kFault);
  const GenerationResult result{reason, sequence.stats, std::move(error)};
  ++counters_.finished;
  if (reason == FinishReason::kCancelled) ++counters_.cancelled;
  const auto node = sequences_.extract(sequence.id);
  if (node.mapped()->listener.on_finish) node.mapped()->listener.on_finish(result);
}

// What a device holds after a fault is worthless, and CUDA's faults do not go away: who waits would
// meet it too.
void Engine::fail_all() {
  std::vector<Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->id < b->id; });
  for (Sequence* sequence : all) finish(*sequence, FinishReason::kFault, counters_.fault);
  prefixes_.clear();
}

void Engine::end_early() {
  const auto now = Sequence::Clock::now();
  std::vector<std::pair<Sequence*, FinishReason>> ended;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->cancelled) {
      ended.emplace_back(sequence.get(), FinishReason::kCancelled);
    } else if (sequence->request.deadline && now >= *sequence->request.deadline) {
      ended.emplace_back(sequence.get(), FinishReason::kDeadline);
    } else if (sequence->output_limit == 0) {
      ended.emplace_back(sequence.get(), FinishReason::kLength);
    }
  }
  std::sort(ended.begin(), ended.end(),
            [](const auto& a, const auto& b) { return a.first->id < b.first->id; });
  for (const auto& [sequence, reason] : ended) finish(*sequence, reason);
}

void Engine::start_admitted(const StepPlan& plan) {
  for (Sequence* sequence : plan.admitted) {
    if (sequence->started) continue;
    sequence->started = true;
    sequence->admitted = Sequence::Clock::now();
    sequence->stats.cached_tokens = sequence->computed;
    sequence->stats.queue_seconds = seconds_between(sequence->submitted, sequence->admitted);
    if (sequence->listener.on_start) sequence->listener.on_start(sequence->stats);
  }
}

bool Engine::forward(const StepPlan& plan) {
  model::StepInput input = batch_.input();
  input.caches = pool_.caches();
  input.cancel = interrupt_;
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  const int64_t vocab = model_->config().vocab_size;
  logits_.resize(static_cast<size_t>(rows * vocab));
  model::StepOutput output;
  output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, rows, vocab, vocab};
  if (const Result<void> passed = model_->forward(input, output); !passed) {
    if (passed.error().kind == ErrorKind::kCancelled) return false;
    counters_.fault = passed.error();
    masks_.wait();  // the masks in the making are of sequences that go now
    fail_all();
    return false;
  }
  for (const StepPlan::Item& item : plan.items) {
    item.sequence->computed += item.tokens;
    // Of those that sample, the logits are looked at first.
    if (!item.samples) publish(*item.sequence);
  }
  return true;
}

void Engine::publish(Sequence& sequence) {
  prefixes_.publish(sequence.pages, sequence.request.cache_salt, sequence.written());
}

void Engine::sample(const StepPlan& plan) {
  samplers_.clear();
  for (const StepPlan::Item& item : plan.items) {
    if (item.samples) samplers_.push_back(item.sequence);
  }
  const auto rows = static_cast<int64_t>(samplers_.size());
  sampled_.assign(static_cast<size_t>(rows), {});
  faulty_.assign(static_cast<size_t>(rows), Fault::kNone);
  threads_->parallel_for(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) sample_row(static_cast<size_t>(row));
  });
}

namespace {

bool none(std::span<const uint64_t> allowed) {
  return std::all_of(allowed.begin(), allowed.end(), [](uint64_t word) { return word == 0; });
}

// True where other ids than the banned ones are allowed.
bool may_ban(const Sequence& sequence) {
  if (!sequence.constraint) return true;
  std::vector<uint64_t> left = sequence.allowed;
  for (const int32_t id : sequence.request.stop_ids)
    left[static_cast<size_t>(id) / 64] &= ~(uint64_t{1} << (static_cast<uint32_t>(id) % 64));
  return !none(left);
}

}  // namespace

void Engine::sample_row(size_t row) {
  Sequence& sequence = *samplers_[row];
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  const std::span<float> logits(logits_.data() + row * vocab, vocab);
  if (!all_finite(logits)) {
    faulty_[row] = Fault::kLogits;
    sequence.allowed_known = false;
    return;
  }
  if (sequence.constraint && none(sequence.allowed)) {
    faulty_[row] = Fault::kDeadEnd;
    return;
  }
  const bool banned = !sequence.request.ignore_stop_ids &&
                      sequence.stats.output_tokens < sequence.request.min_tokens &&
                      may_ban(sequence);
  sampled_[row] = sequence.sampler.sample(
      logits,
      banned ? std::span<const int32_t>(sequence.request.stop_ids) : std::span<const int32_t>(),
      sequence.allowed);
  sequence.sampler.accept(sampled_[row].id);
  if (!sequence.constraint) return;
  sequence.constraint->accept(sampled_[row].id);
  sequence.allowed_known = false;
}

// A step that is interrupted leaves its masks for the next one.
void Engine::start_masks(const StepPlan& plan) {
  std::vector<Sequence*> waiting;
  for (const StepPlan::Item& item : plan.items) {
    if (item.samples && item.sequence->constraint && !item.sequence->allowed_known)
      waiting.push_back(item.sequence);
  }
  if (waiting.empty()) return;
  masks_.start([waiting = std::move(waiting)] {
    for (Sequence* sequence : waiting) {
      sequence->constraint->fill(sequence->allowed);
      sequence->allowed_known = true;
    }
  });
}

void Engine::deliver() {
  for (size_t i = 0; i < samplers_.size(); ++i) {
    Sequence& sequence = *samplers_[i];
    if (faulty_[i] != Fault::kNone) {
      finish(sequence, FinishReason::kFault, fault_of(sequence));
      continue;
    }
    const Sampled& sampled = sampled_[i];
    GenerationStats& stats = sequence.stats;
    if (stats.output_tokens++ == 0) {
      sequence.first_token = Sequence::Clock::now();
      stats.prefill_seconds = seconds_between(sequence.admitted, sequence.first_token);
    }
    publish(sequence);
    sequence.ids.push_back(sampled.id);
    sequence.decoding = true;
    ++counters_.generated_tokens;
    const bool go_on = !sequence.listener.on_token || sequence.listener.on_token(sampled);
    if (!sequence.request.ignore_stop_ids && contains(sequence.request.stop_ids, sampled.id)) {
      finish(sequence, FinishReason::kStopId);
    } else if (!go_on) {
      finish(sequence, FinishReason::kCallback);
    } else if (stats.output_tokens >= sequence.output_limit) {
      finish(sequence, FinishReason::kLength);
    }
  }
}

bool Engine::step() {
  if (sequences_.empty()) return false;
  report_ = {};
  Stopwatch watch;
  end_early();
  if (counters_.fault) fail_all();
  report_.deliver_seconds = watch.lap();
  const StepPlan plan = scheduler_.plan();
  bool done = false;
  if (!plan.items.empty()) {
    start_admitted(plan);
    batch_.build(plan);
    report_.plan_seconds = watch.lap();
    start_masks(plan);
    done = forward(plan);
    report_.forward_seconds = watch.lap();
    masks_.wait();
    report_.mask_seconds = watch.lap();
  }
  if (done) {
    sample(plan);
    report_.sample_seconds = watch.lap();
    deliver();
    report_.deliver_seconds += watch.lap();
    report_.decode_tokens = plan.decode_tokens;
    report_.prefill_tokens = plan.prefill_tokens;
  }
  report_.preempted = plan.preempted;
  report_.prefix_queries = plan.prefix_queries;
  report_.prefix_hits = plan.prefix_hits;
  count_step();
  return true;
}

void Engine::count_step() {
  ++counters_.steps;
  counters_.running = scheduler_.running();
  counters_.queued = scheduler_.waiting();
  counters_.free_pages = pool_.free_pages();
  counters_.cached_pages = prefixes_.cached_pages();
  counters_.preemptions += report_.preempted;
  counters_.prompt_tokens += report_.prefill_tokens;
  counters_.prefix_queries += report_.prefix_queries;
  counters_.prefix_hits += report_.prefix_hits;
  counters_.plan_seconds += report_.plan_seconds;
  counters_.forward_seconds += report_.forward_seconds;
  counters_.sample_seconds += report_.sample_seconds;
  counters_.deliver_seconds += report_.deliver_seconds;
  if (idle()) check_conservation();
}

void Engine::check_conservation() const {
  std::vector<uint8_t> owners(static_cast<size_t>(pool_.capacity()), 0);
  int64_t owned = 0;
  const auto own = [&](int32_t page) {
    LS_CHECK_MSG(owners[static_cast<size_t>(page)]++ == 0, "cache page {} has two owners", page);
    ++owned;
  };
  for (int32_t page : prefixes_.tree_pages()) own(page);
  for (const auto& [id, sequence] : sequences_) {
    const PageList& list = sequence->pages;
    for (size_t i = static_cast<size_t>(list.shared); i < list.pages.size(); ++i)
      own(list.pages[i]);
    for (size_t i = 0; i < static_cast<size_t>(list.shared); ++i)
      LS_CHECK(owners[static_cast<size_t>(list.pages[i])] == 1);
  }
  LS_CHECK_MSG(pool_.free_pages() + owned == pool_.capacity(),
               "{} cache pages are free and {} owned of {}", pool_.free_pages(), owned,
               pool_.capacity());
  if (idle()) LS_CHECK(prefixes_.cached_pages() == prefixes_.nodes());
}

void Engine::clear_prefix_cache() {
  prefixes_.clear();
  counters_.free_pages = pool_.free_pages();
  counters_.cached_pages = prefixes_.cached_pages();
}

}  // namespace longshore::engine
