// The engine's part in guessing ahead: when, what is kept for it, what it teaches the cost model.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/clock.h"
#include "engine/engine.h"
#include "model/cost.h"

namespace longshore::engine {
namespace {

// A pass reads its experts and everything else once: bytes stand for seconds.
ExpertGrowth growth_of(const model::Model& model) {
  const offload::HostExperts& experts = model.experts().experts();
  if (experts.size() == 0) return {};
  const auto per_token = static_cast<double>(model.config().experts_per_token);
  const double routed = per_token * static_cast<double>(experts.layers()) *
                        static_cast<double>(model.experts().expert_bytes());
  const auto rest = static_cast<double>(model::step_bytes(model.weights()));
  return {.experts = static_cast<double>(experts.per_layer()),
          .per_token = per_token,
          .expert_part = routed / (routed + rest)};
}

}  // namespace

void Engine::set_speculation(const Speculation& speculation) {
  LS_CHECK(drafter_ != nullptr && speculation.max_steps <= options_.speculation.max_steps);
  drafter_->set_options(speculation);
  policy_ = SpeculationPolicy(speculation.max_steps, measured_);
  policy_.set_growth(growth_of(*model_));
}

Result<void> Engine::capture_drafts(const model::GraphOptions& options) {
  if (!drafter_) return {};
  model::Mtp& mtp = *options_.speculation.mtp;
  LS_TRY_VOID(mtp.capture_steps(pool_.caches(), model_->hidden_place(), options));
  // Where the host decides about experts, what a pass takes depends on which it needs.
  if (model_->captured_steps() == 0 || !mtp.draws() || !model_->experts().whole_on_device())
    return {};
  LS_TRY_VOID(measure_costs());
  set_speculation(drafter_->options());
  return {};
}

namespace {

// A batch at the start of the first page, which nobody owns yet: so many rows, all of whose logits
// are wanted, of at most so many sequences. Different ids, as they choose different experts.
void fill(Batch& batch, int64_t rows, int64_t most_sequences, int64_t position, int64_t vocab) {
  static constexpr int32_t kFirstPage = 0;
  constexpr int64_t kStride = 7919;
  const int64_t sequences = std::min(rows, most_sequences);
  batch.clear();
  for (int64_t b = 0; b < sequences; ++b) {
    const auto sequence = batch.add_sequence(std::span(&kFirstPage, 1));
    for (int64_t row = b, at = position; row < rows; row += sequences, ++at) {
      batch.add_token(sequence, static_cast<int32_t>((1 + row) * kStride % vocab), at);
      batch.want_logits();
    }
  }
  batch.finish();
}

constexpr int kTimes = 3;  // the shortest of which counts

}  // namespace

Result<void> Engine::measure_costs() {
  // No steps of requests: nobody counts them.
  const offload::ExpertStore::Capturing target(model_->experts());
  const offload::ExpertStore::Capturing draft(options_.speculation.mtp->experts());
  const int64_t depths = options_.speculation.max_steps;
  const int64_t most = options_.max_running * (1 + depths);
  measured_.draft.resize(static_cast<size_t>(depths));
  for (int64_t rows = 1; rows <= std::min<int64_t>(most, 64); rows += rows < 8 ? 1 : 8) {
    LS_TRY(const double seconds, time_pass(rows));
    // As often as it was timed: one slow plain step later must not make drafts seem cheap.
    for (int i = 0; i < kTimes; ++i) measured_.forward.record(rows, seconds);
    for (int64_t depth = 1; depth <= depths && rows <= options_.max_running; ++depth) {
      LS_TRY(const double drafting, time_draft(rows, depth));
      measured_.draft[static_cast<size_t>(depth - 1)].record(rows, drafting);
    }
  }
  return {};
}

Result<double> Engine::time_pass(int64_t rows) {
  const int64_t vocab = model_->config().vocab_size;
  const std::vector<kernels::DrawRule> rules(static_cast<size_t>(rows));
  const std::vector<uint8_t> drawn_only(rules.size(), 1);
  drawn_.resize(rules.size());
  model::StepOutput output;
  output.logits = {logits_.data(), DType::kF32, rows, vocab, vocab};
  output.drawn = drawn_;
  output.rules = rules;
  output.drawn_only = drawn_only;
  double shortest = INFINITY;
  for (int i = 0; i < kTimes; ++i) {
    fill(batch_, rows, options_.max_running, 0, vocab);
    model::StepInput input = batch_.input();
    input.caches = pool_.caches();
    const Stopwatch watch;
    LS_TRY_VOID(model_->forward(input, output));
    shortest = std::min(shortest, watch.seconds());
  }
  return shortest;
}

// After a pass of so many rows.
Result<double> Engine::time_draft(int64_t sequences, int64_t depth) {
  model::Mtp& mtp = *options_.speculation.mtp;
  const std::vector<kernels::DrawRule> rules(static_cast<size_t>(sequences));
  std::vector<int32_t> rows(rules.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<int32_t> ids(rules.size() * static_cast<size_t>(depth));
  double shortest = INFINITY;
  for (int i = 0; i < kTimes; ++i) {
    const Stopwatch watch;
    for (int64_t d = 0; d < depth; ++d) {
      fill(batch_, sequences, sequences, d, model_->config().vocab_size);
      model::StepInput input = batch_.input();
      input.caches = pool_.caches();
      input.hidden_rows = rows.data();
      LS_TRY_VOID(mtp.draw(input, d == 0 ? model_->hidden() : mtp.hidden(), rules));
    }
    LS_TRY_VOID(mtp.take_drawn(ids));
    shortest = std::min(shortest, watch.seconds());
  }
  return shortest;
}

namespace {

// A prompt's hidden states are there for one step alone. Where that is one without guesses, whether
// reading them now, with one guess of which the step makes use, is worth it for these sequences: by
// half of what drafting is expected to save until they end.
bool worth_reading(const SpeculationPolicy& policy, const Speculation& options, int64_t sequences,
                   int64_t fresh, int64_t rows) {
  if (options.always) return true;
  constexpr double kMargin = 1.05;  // that drafting must promise
  const auto plain = policy.rate({sequences}, 0);
  double saved = 0;  // of a token
  for (int64_t steps = 1; plain && steps <= options.max_steps; ++steps)
    saved = std::max(saved, 1 / *plain - 1 / policy.rate({sequences}, steps).value_or(*plain));
  if (!plain || saved * *plain * kMargin < kMargin - 1) return false;
  const double tokens = 1 + policy.acceptance(0);
  const double one = tokens / *policy.rate({fresh}, 1);
  const double with_reading = tokens / *policy.rate({fresh, 0, rows}, 1);
  const double reading = (with_reading - one) / std::min(1.0, tokens / policy.stay());
  const double cost = static_cast<double>(fresh) * (one + reading);
  return cost < policy.credit() && cost < saved * static_cast<double>(fresh) * policy.stay() / 2;
}

// Of a draft that has read a run of rows up to there.
bool is_blind(int64_t run, int64_t until) {
  return run < std::min(SpeculationPolicy::kSight, until);
}

}  // namespace

bool Engine::draft() {
  backlog_ = 0;
  passes_ = 0;
  if (!drafter_ || left_ || drafter_->options().max_steps == 0) return true;
  const std::vector<Sequence*> all = scheduler_.decoding(0);
  std::vector<Sequence*> able;
  std::vector<Sequence*> fresh;
  int64_t blind = 0;
  for (Sequence* sequence : all) {
    const int64_t unread = sequence->unread(Drafter::kWindow);
    if (is_blind(sequence->run_after(Drafter::kWindow), sequence->computed)) ++blind;
    if (unread == 0) continue;
    able.push_back(sequence);
    if (unread <= 1 + drafter_->options().max_steps) continue;
    fresh.push_back(sequence);
    backlog_ += unread;
  }
  if (able.empty()) return true;
  const auto sequences = static_cast<int64_t>(all.size());
  // Nobody knows what a guess costs beside a pass, where the CPU computes what the wire brings at
  // other times, and the ledger would not be charged for it: the cost model is not asked there.
  if (pass_ && !drafter_->options().always) return true;
  int64_t steps = 0;
  if (!paused_) {
    steps = drafter_->options().always
                ? drafter_->options().max_steps
                : policy_.choose({sequences, decoding_only() ? 0 : last_prefill_, backlog_, blind});
  }
  if (steps == 0) {
    if (fresh.empty() || !worth_reading(policy_, drafter_->options(), sequences,
                                        static_cast<int64_t>(fresh.size()), backlog_))
      return true;
    able = fresh;
    steps = 1;
  }
  if (pass_) steps = std::min(steps, model_->beside_tokens() / sequences - 1);
  if (steps <= 0) return true;
  scheduler_.decoding(steps);
  const Result<int64_t> done = drafter_->draft(able, steps, pool_.caches(), interrupt_);
  if (done) {
    passes_ = *done;
    return true;
  }
  if (done.error().kind == ErrorKind::kCancelled) return false;
  fail_all(done.error());
  return false;
}

// Before deliver(), which ends sequences.
void Engine::note_hidden(const StepPlan& plan, bool done) {
  if (!drafter_) return;
  for (const auto& [id, sequence] : sequences_) sequence->draft.rows = 0;
  if (!done || left_) return;
  int64_t row = 0;
  size_t sampler = 0;
  for (const StepPlan::Item& item : plan.items) {
    int64_t right = item.tokens - item.drafts;
    if (item.samples)
      right += std::max<int64_t>(static_cast<int64_t>(sampled_[sampler++].size()) - 1, 0);
    item.sequence->draft.row = row;
    item.sequence->draft.rows = right;
    row += item.tokens;
  }
}

void Engine::count_guesses() {
  taught_ = {.drafted = report_.drafted, .accepted = report_.accepted};
  for (size_t i = 0; i < samplers_.size(); ++i) {
    Sequence& sequence = *samplers_[i].sequence;
    const bool blind = is_blind(sequence.draft.run, sequence.draft.until);
    const size_t drawn = sampled_[i].size();
    for (size_t depth = 0; depth < std::min(samplers_[i].drafts, drawn); ++depth) {
      const int64_t right = depth + 1 < drawn ? 1 : 0;
      ++sequence.stats.drafted;
      ++report_.drafted[depth];
      report_.accepted[depth] += right;
      if (blind) continue;
      ++taught_.drafted[depth];
      taught_.accepted[depth] += right;
    }
  }
}

void Engine::teach_policy(const StepPlan& plan) {
  last_prefill_ = plan.prefill_tokens;
  if (!drafter_ || paused_ || left_ || plan.decode_tokens == 0) return;
  if (pass_) return;  // the CPU computes what the wire would bring: other costs than at other times
  teach_experts(plan);
  SpeculationStep step{.load = {plan.decode_tokens, plan.prefill_tokens, backlog_},
                       .steps = passes_,
                       .rows = plan.tokens(),
                       .forward_seconds = report_.plan_seconds + report_.forward_seconds +
                                          report_.mask_seconds + report_.sample_seconds,
                       .draft_seconds = report_.draft_seconds,
                       .tokens = report_.tokens,
                       .drafted = std::move(taught_.drafted),
                       .accepted = std::move(taught_.accepted)};
  const Speculation& options = drafter_->options();
  if (options.row_seconds >= 0) {
    step.forward_seconds = 1 + options.row_seconds * static_cast<double>(step.rows);
    step.draft_seconds = options.pass_seconds * static_cast<double>(step.steps);
  }
  policy_.record(step);
}

// Only where the host sees the routes.
void Engine::teach_experts(const StepPlan& plan) {
  const offload::ExpertStore& store = model_->experts();
  const int64_t layers = store.experts().layers();
  if (plan.prefill_tokens > 0 || layers == 0) return;
  const auto distinct = static_cast<double>(store.counters().routed_experts - routed_);
  policy_.record_experts(plan.tokens(), distinct / static_cast<double>(layers));
}

void Engine::count_drafts() {
  const auto depths = static_cast<size_t>(drafter_->options().max_steps);
  // Guesses of a step that was interrupted may be deeper than what is allowed since.
  const size_t known = std::max(depths, report_.drafted.size());
  counters_.drafted.resize(known);
  counters_.accepted.resize(known);
  counters_.acceptance.resize(depths);
  for (size_t depth = 0; depth < report_.drafted.size(); ++depth) {
    counters_.drafted[depth] += report_.drafted[depth];
    counters_.accepted[depth] += report_.accepted[depth];
  }
  for (size_t depth = 0; depth < depths; ++depth)
    counters_.acceptance[depth] = policy_.acceptance(static_cast<int64_t>(depth));
  counters_.routing_overlap = policy_.growth().overlap;
}

}  // namespace longshore::engine
