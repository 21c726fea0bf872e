#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace longshore::engine {
namespace {

double seconds_between(Sequence::Clock::time_point from, Sequence::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
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
  const int64_t drafts = asked.speculation.on() ? asked.speculation.max_steps : 0;
  LS_CHECK_MSG(asked.prefill_budget + asked.max_running * (1 + drafts) <= limits.tokens,
               "a step of {} + {} * {} tokens and room for {}", asked.prefill_budget,
               asked.max_running, 1 + drafts, limits.tokens);
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
  engine->on_device_ = !layout.memory->host();
  const int64_t most_logits = asked.max_running * (1 + drafts) * model.config().vocab_size;
  LS_TRY(engine->logits_,
         device::Buffer::allocate(model.output_memory(),
                                  most_logits * static_cast<int64_t>(sizeof(float)), "logits"));
  if (options.speculation.on()) {
    LS_CHECK_MSG(layout.layers() == model.config().num_layers + 1, "caches without the MTP layer");
    engine->drafter_ = std::make_unique<Drafter>(options.speculation, model, threads);
    engine->set_speculation(options.speculation);
  }
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

// What the model has queued writes to pages of the pool.
Engine::~Engine() {
  if (!pass_) return;
  model_->abandon_pass();
  end_pass();
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

bool Engine::decoding_only() const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [](const auto& entry) { return entry.second->decoding; });
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
  if (drafter_ && !left_ && sequence.stats.output_tokens > 1)
    policy_.record_end(sequence.stats.output_tokens);
  scheduler_.remove(sequence, reason != FinishReason::kFault);
  const GenerationResult result{reason, sequence.stats, std::move(error)};
  ++counters_.finished;
  if (reason == FinishReason::kCancelled) ++counters_.cancelled;
  const auto node = sequences_.extract(sequence.id);
  if (node.mapped()->listener.on_finish) node.mapped()->listener.on_finish(result);
}

// What a device holds after a fault is worthless, and CUDA's faults do not go away: who waits would
// meet it too.
void Engine::fail_all(const Error& fault) {
  counters_.fault = fault;
  masks_.wait();  // the masks in the making are of sequences that go now
  if (pass_) {
    model_->abandon_pass();
    end_pass();
  }
  std::vector<Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->id < b->id; });
  for (Sequence* sequence : all) finish(*sequence, FinishReason::kFault, fault);
  prefixes_.clear();
}

void Engine::end_early() {
  const auto now = Sequence::Clock::now();
  std::vector<std::pair<Sequence*, FinishReason>> ended;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->in_pass) continue;
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
  routed_ = model_->experts().counters().routed_experts;
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  return passed(plan, model_->forward(input, output_of(plan, rows)));
}

model::StepOutput Engine::output_of(const StepPlan& plan, int64_t rows) {
  const int64_t vocab = model_->config().vocab_size;
  LS_CHECK(rows * vocab * dtype_size(DType::kF32) <= logits_.bytes());
  model::StepOutput output;
  output.logits = {logits_.data(), DType::kF32, rows, vocab, vocab};
  ask_for_draws(plan, output);
  return output;
}

bool Engine::passed(const StepPlan& plan, const Result<void>& result) {
  if (!result) {
    if (result.error().kind != ErrorKind::kCancelled) fail_all(result.error());
    return false;
  }
  for (const StepPlan::Item& item : plan.items) {
    // Drafts count once they have turned out right.
    item.sequence->computed += item.tokens - item.drafts;
    // Of those that sample, the logits are looked at first.
    if (!item.samples) publish(*item.sequence);
  }
  return true;
}

void Engine::ask_for_draws(const StepPlan& plan, model::StepOutput& output) {
  rules_.clear();
  drawn_only_.clear();
  bool any = false;
  for (const StepPlan::Item& item : plan.items) {
    for (int64_t place = 0; on_device_ && item.samples && place <= item.drafts; ++place) {
      const bool drawn = item.sequence->draws_only(place);
      any = any || drawn;
      drawn_only_.push_back(drawn ? 1 : 0);
      rules_.push_back(drawn ? item.sequence->sampler.rule(static_cast<uint64_t>(place))
                             : kernels::DrawRule{});
    }
  }
  if (!any) drawn_only_.clear();
  drawn_.resize(drawn_only_.size());
  output.drawn = drawn_;
  output.rules = std::span(rules_).first(drawn_.size());
  output.drawn_only = drawn_only_;
}

void Engine::publish(Sequence& sequence) {
  prefixes_.publish(sequence.pages, sequence.request.cache_salt, sequence.written());
}

void Engine::sample(const StepPlan& plan) {
  samplers_.clear();
  size_t row = 0;
  for (const StepPlan::Item& item : plan.items) {
    if (!item.samples) continue;
    const auto drafts = static_cast<size_t>(item.drafts);
    samplers_.push_back({item.sequence, row, drafts});
    row += 1 + drafts;
  }
  const auto count = static_cast<int64_t>(samplers_.size());
  sampled_.assign(samplers_.size(), {});
  faulty_.assign(samplers_.size(), Fault::kNone);
  threads_->parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) sample_sequence(static_cast<size_t>(i));
  });
}

namespace {

bool none(std::span<const uint64_t> allowed) {
  return std::all_of(allowed.begin(), allowed.end(), [](uint64_t word) { return word == 0; });
}

// Whether a coin of this weight, the same for the same place of the same request, shows heads.
bool coin(double weight, const Sequence& sequence, size_t place) {
  uint64_t x = (sequence.id << 32) ^ (sequence.ids.size() + place);
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ULL;
  return static_cast<double>((x ^ (x >> 32)) >> 11) * 0x1p-53 < weight;
}

}  // namespace

// Draws token after token while the guesses are right: what comes out is what plain decoding draws.
void Engine::sample_sequence(size_t i) {
  const Sampling& turn = samplers_[i];
  Sequence& sequence = *turn.sequence;
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  const double forced = drafter_ ? drafter_->options().forced_acceptance : -1;
  for (size_t place = 0; place <= turn.drafts; ++place) {
    const size_t row = turn.row + place;
    const bool drawn = !drawn_only_.empty() && drawn_only_[row] != 0;
    const std::span<float> logits(reinterpret_cast<float*>(logits_.data()) + row * vocab, vocab);
    if (drawn ? drawn_[row] < 0 : !all_finite(logits)) {
      faulty_[i] = Fault::kLogits;
      sequence.allowed_known = false;
      return;
    }
    const auto guesses = static_cast<int64_t>(place);
    std::span<const uint64_t> allowed;
    if (sequence.constraint) allowed = sequence.mask(guesses);
    if (sequence.constraint && none(allowed)) {
      faulty_[i] = Fault::kDeadEnd;
      if (place > 0) sequence.constraint->fill(sequence.allowed);  // for its fault()
      sequence.allowed_known = true;
      return;
    }
    Sampled sampled;
    if (drawn) {
      sampled.id = drawn_[row];
      sequence.sampler.count_draw();
    } else {
      sampled = sequence.sampler.sample(logits, sequence.banned(guesses), allowed);
    }
    bool right = place < turn.drafts && sampled.id == sequence.draft.ids[place];
    if (forced >= 0 && place < turn.drafts) {
      right = coin(forced, sequence, place);
      if (right) sampled.id = sequence.draft.ids[place];
    }
    sequence.sampler.accept(sampled.id);
    if (sequence.constraint) {
      sequence.constraint->accept(sampled.id);
      sequence.allowed_known = false;
    }
    sampled_[i].push_back(sampled);
    if (!right || sequence.stops_at(sampled.id)) return;
  }
}

// A step that is interrupted leaves its masks for the next one.
void Engine::start_masks(const StepPlan& plan) {
  std::vector<Sequence*> waiting;
  for (const StepPlan::Item& item : plan.items) {
    if (!item.samples || !item.sequence->constraint) continue;
    if (!item.sequence->allowed_known || item.sequence->draft.masks <= item.drafts)
      waiting.push_back(item.sequence);
  }
  if (waiting.empty()) return;
  masks_.start([waiting = std::move(waiting)] {
    for (Sequence* sequence : waiting) {
      // After guesses the constraint stands behind them; of the places before the masks are known.
      const auto guesses = static_cast<int64_t>(sequence->draft.ids.size());
      if (guesses > 0 || !sequence->allowed_known)
        sequence->constraint->fill(sequence->mask(guesses));
      sequence->allowed_known = true;
      if (guesses == 0) continue;
      sequence->constraint->drop_drafts();
      sequence->draft.masks = guesses + 1;
    }
  });
}

void Engine::deliver() {
  for (size_t i = 0; i < samplers_.size(); ++i) {
    const Sampling& turn = samplers_[i];
    Sequence& sequence = *turn.sequence;
    const bool decoded = sequence.decoding;
    const size_t drawn = sampled_[i].size();
    if (decoded) report_.tokens += static_cast<int64_t>(drawn);
    sequence.draft.ids.clear();
    sequence.draft.masks = 0;
    bool goes_on = true;
    for (size_t place = 0; goes_on && place < drawn; ++place) {
      if (place > 0) {  // the guess before was right, and so is its cache
        ++sequence.computed;
        ++sequence.stats.accepted;
      }
      goes_on = deliver_token(sequence, sampled_[i][place]);
    }
    if (goes_on && faulty_[i] != Fault::kNone)
      finish(sequence, FinishReason::kFault, fault_of(sequence));
  }
}

bool Engine::deliver_token(Sequence& sequence, const Sampled& sampled) {
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
  if (sequence.stops_at(sampled.id)) {
    finish(sequence, FinishReason::kStopId);
  } else if (!go_on) {
    finish(sequence, FinishReason::kCallback);
  } else if (stats.output_tokens >= sequence.output_limit) {
    finish(sequence, FinishReason::kLength);
  } else {
    return true;
  }
  return false;
}

bool Engine::step() {
  if (sequences_.empty()) return false;
  report_ = {};
  const Stopwatch watch;
  if (pass_ && !pass_is_wanted()) {
    model_->abandon_pass();
    end_pass();
  }
  end_early();
  if (counters_.fault) fail_all(Error(*counters_.fault));
  report_.deliver_seconds = watch.seconds();
  if (pass_) {
    go_on_with_pass();
  } else {
    run_step();
  }
  count_step();
  return true;
}

void Engine::run_step() {
  Stopwatch watch;
  if (!draft()) return;
  report_.draft_seconds = watch.lap();
  StepPlan plan = pass_ ? scheduler_.plan_beside() : scheduler_.plan();
  report_.preempted = plan.preempted;
  report_.prefix_queries = plan.prefix_queries;
  report_.prefix_hits = plan.prefix_hits;
  if (plan.items.empty()) return;
  for (const StepPlan::Item& item : plan.items)
    report_.draft_steps = std::max(report_.draft_steps, item.drafts);
  report_.drafted.assign(static_cast<size_t>(report_.draft_steps), 0);
  report_.accepted = report_.drafted;
  start_admitted(plan);
  if (splits(plan)) {
    report_.plan_seconds = watch.lap();
    begin_pass(plan);
    report_.pass_seconds = watch.lap();
  } else if (!pass_ && plan.prefill_tokens > 0) {
    beside_cost_ *= 0.9;  // until it is measured again
  }
  batch_.build(plan);
  report_.plan_seconds += watch.lap();
  start_masks(plan);
  const bool done = forward(plan);
  report_.forward_seconds = watch.lap();
  masks_.wait();
  report_.mask_seconds = watch.lap();
  done ? complete(plan) : note_hidden(plan, /*done=*/false);
}

void Engine::complete(const StepPlan& plan) {
  Stopwatch watch;
  sample(plan);
  report_.sample_seconds += watch.lap();
  note_hidden(plan, /*done=*/true);
  count_guesses();
  deliver();
  report_.deliver_seconds += watch.lap();
  report_.passes = 1;
  if (pass_) count_beside();
  report_.decode_tokens = plan.decode_tokens;
  report_.prefill_tokens = plan.prefill_tokens;
  report_.draft_rows = plan.draft_tokens;
  teach_policy(plan);
}

void Engine::count_step() {
  counters_.steps += report_.passes;
  counters_.running = scheduler_.running();
  counters_.queued = scheduler_.waiting();
  counters_.free_pages = pool_.free_pages();
  counters_.cached_pages = prefixes_.cached_pages();
  counters_.preemptions += report_.preempted;
  counters_.prompt_tokens += report_.prefill_tokens;
  counters_.prefix_queries += report_.prefix_queries;
  counters_.prefix_hits += report_.prefix_hits;
  counters_.decode_steps += report_.decode_tokens;
  counters_.decode_output += report_.tokens;
  if (report_.draft_steps > 0) counters_.speculated += report_.decode_tokens;
  counters_.draft_rows += report_.draft_rows;
  if (report_.passes > 0) counters_.draft_steps = report_.draft_steps;
  counters_.draft_seconds += report_.draft_seconds;
  if (drafter_) count_drafts();
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
