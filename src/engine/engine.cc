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
  counters_.accepted_by_depth.resize(static_cast<size_t>(options.draft_tokens));
}

Result<std::unique_ptr<Engine>> Engine::create(model::Model& model, const model::KvLayout& layout,
                                               ThreadPool& threads, const EngineOptions& asked,
                                               model::Mtp* mtp) {
  LS_CHECK(asked.context_length >= 1 && asked.max_running >= 1 && asked.prefill_budget >= 1);
  const model::StepLimits& limits = model.limits();
  LS_CHECK(asked.draft_tokens == 0 || mtp != nullptr);
  const int64_t decoding = asked.max_running * (1 + asked.draft_tokens);
  LS_CHECK_MSG(asked.prefill_budget + decoding <= limits.tokens,
               "a step of {} + {} tokens and room for {}", asked.prefill_budget, decoding,
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
  std::unique_ptr<Engine> engine(new Engine(model, threads, options, std::move(pool)));
  if (options.draft_tokens > 0) engine->drafter_.emplace(*mtp, model.config().vocab_size);
  return engine;
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
  input.keep_hidden = drafter_.has_value();
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
  // What decodes gets ahead when it is known which drafts were right.
  for (const StepPlan::Item& item : plan.items) {
    if (!item.decodes) item.sequence->computed += item.tokens;
  }
  return true;
}

// Of those that sample, the logits are looked at first.
void Engine::publish_prompts(const StepPlan& plan) {
  for (const StepPlan::Item& item : plan.items) {
    if (!item.samples) publish(*item.sequence);
  }
}

void Engine::publish(Sequence& sequence) {
  prefixes_.publish(sequence.pages, sequence.request.cache_salt, sequence.written());
}

void Engine::sample(const StepPlan& plan) {
  draws_.clear();
  size_t row = 0;
  for (const StepPlan::Item& item : plan.items) {
    const auto rows = static_cast<size_t>(item.logit_rows());
    if (rows > 0)
      draws_.push_back({.sequence = item.sequence,
                        .row = row,
                        .rows = rows,
                        .decodes = item.decodes,
                        .sampled = {}});
    row += rows;
  }
  threads_->parallel_for(static_cast<int64_t>(draws_.size()), 1,
                         [&](int64_t begin, int64_t end, int) {
                           for (int64_t i = begin; i < end; ++i)
                             sample_item(static_cast<size_t>(i));
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

// A row's token is drawn as it would be without drafts, and the next row counts if its draft is
// that token: the tokens, their number of draws and so their distribution are those of plain
// decoding. (Of guesses that are certain of themselves, this is what rejection sampling comes to.)
void Engine::sample_item(size_t item) {
  Draw& draw = draws_[item];
  Sequence& sequence = *draw.sequence;
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  for (size_t i = 0; i < draw.rows; ++i) {
    const std::span<float> logits(logits_.data() + (draw.row + i) * vocab, vocab);
    if (!all_finite(logits)) {
      // Of a later row the next step will say it.
      if (i == 0) draw.fault = Fault::kLogits;
      sequence.allowed_known = false;
      return;
    }
    if (sequence.constraint && i > 0) {
      sequence.constraint->fill(sequence.allowed);
      sequence.allowed_known = true;
    }
    if (sequence.constraint && none(sequence.allowed)) {
      if (i == 0) draw.fault = Fault::kDeadEnd;
      return;
    }
    const int64_t given = sequence.stats.output_tokens + static_cast<int64_t>(i);
    const bool banned = !sequence.request.ignore_stop_ids && given < sequence.request.min_tokens &&
                        may_ban(sequence);
    draw.sampled.push_back(sequence.sampler.sample(
        logits,
        banned ? std::span<const int32_t>(sequence.request.stop_ids) : std::span<const int32_t>(),
        sequence.allowed));
    const int32_t id = draw.sampled.back().id;
    sequence.sampler.accept(id);
    if (sequence.constraint) {
      sequence.constraint->accept(id);
      sequence.allowed_known = false;
    }
    if (i + 1 < draw.rows && id != sequence.drafts[i]) return;
    if (!sequence.request.ignore_stop_ids && contains(sequence.request.stop_ids, id)) return;
  }
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

// How many guesses a sequence gets that has just been given `given` tokens: no more than it may
// still give before its last one, and than there are pages for.
int64_t Engine::most_drafts(const Sequence& sequence, int64_t given) {
  const int64_t left = sequence.output_limit - sequence.stats.output_tokens - given;
  const int64_t wanted = std::min(options_.draft_tokens, left - 1);
  const int64_t known = static_cast<int64_t>(sequence.ids.size()) + given;
  const auto room = static_cast<int64_t>(sequence.pages.pages.size()) * kernels::kPageTokens;
  return std::clamp<int64_t>(wanted, 0, std::max<int64_t>(room - known, 0));
}

bool Engine::draft(const StepPlan& plan) {
  std::vector<Drafter::Item> items;
  auto draw = draws_.begin();
  int64_t row = 0;
  for (const StepPlan::Item& item : plan.items) {
    Sequence& sequence = *item.sequence;
    Drafter::Item work{
        .sequence = &sequence, .start = item.start, .row = row, .next = {}, .most = 0};
    row += item.tokens;
    const bool drew = item.logit_rows() > 0;
    const Draw* its = drew ? &*draw++ : nullptr;
    // The id after every row that counts: of prompts the next ones, then what was drawn.
    if (!item.decodes) {
      const auto first = sequence.ids.begin() + item.start + 1;
      const auto end = first + item.tokens - (item.samples ? 1 : 0);
      work.next.assign(first, end);
    }
    if (drew) {
      for (const Sampled& sampled : its->sampled) work.next.push_back(sampled.id);
      const auto given = static_cast<int64_t>(its->sampled.size());
      if (its->fault == Fault::kNone) {
        const int64_t wanted = sequence.computed + (item.decodes ? given : 0) + 1;
        (void)prefixes_.grow(sequence.pages, pages_for(std::min(wanted + options_.draft_tokens,
                                                                sequence.stats.prompt_tokens +
                                                                    sequence.output_limit)));
        work.most = most_drafts(sequence, given);
      } else {
        work.next.clear();
      }
    }
    items.push_back(std::move(work));
  }
  const Result<void> passed = drafter_->run(items, model_->hidden(), pool_.caches());
  if (passed) return true;
  counters_.fault = passed.error();
  fail_all();
  return false;
}

void Engine::deliver() {
  for (Draw& draw : draws_) {
    Sequence& sequence = *draw.sequence;
    if (draw.fault != Fault::kNone) {
      finish(sequence, FinishReason::kFault, fault_of(sequence));
      continue;
    }
    GenerationStats& stats = sequence.stats;
    report_.decode_tokens += draw.decodes ? static_cast<int64_t>(draw.sampled.size()) : 0;
    for (const Sampled& sampled : draw.sampled) {
      if (stats.output_tokens++ == 0) {
        sequence.first_token = Sequence::Clock::now();
        stats.prefill_seconds = seconds_between(sequence.admitted, sequence.first_token);
      }
      if (draw.decodes) ++sequence.computed;
      publish(sequence);
      sequence.ids.push_back(sampled.id);
      sequence.decoding = true;
      ++counters_.generated_tokens;
      const bool go_on = !sequence.listener.on_token || sequence.listener.on_token(sampled);
      std::optional<FinishReason> end;
      if (!sequence.request.ignore_stop_ids && contains(sequence.request.stop_ids, sampled.id)) {
        end = FinishReason::kStopId;
      } else if (!go_on) {
        end = FinishReason::kCallback;
      } else if (stats.output_tokens >= sequence.output_limit) {
        end = FinishReason::kLength;
      }
      if (!end) continue;
      finish(sequence, *end);
      break;
    }
  }
}

void Engine::count_drafts() {
  for (const Draw& draw : draws_) {
    if (draw.rows < 2 || draw.fault != Fault::kNone) continue;
    const size_t accepted = draw.sampled.size() - 1;
    ++report_.draft_checks;
    report_.drafted += static_cast<int64_t>(draw.rows) - 1;
    report_.drafts_accepted += static_cast<int64_t>(accepted);
    for (size_t depth = 0; depth < accepted; ++depth) ++counters_.accepted_by_depth[depth];
  }
  counters_.draft_checks += report_.draft_checks;
  counters_.drafted += report_.drafted;
  counters_.drafts_accepted += report_.drafts_accepted;
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
    count_drafts();
    if (drafter_) done = draft(plan);
    report_.draft_seconds = watch.lap();
  }
  if (done) {
    publish_prompts(plan);
    deliver();
    report_.deliver_seconds += watch.lap();
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
