// The engine's part in guessing ahead: when, what is kept for it, what it teaches the cost model.
#include <algorithm>

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
  policy_ = SpeculationPolicy(speculation.max_steps);
  policy_.set_growth(growth_of(*model_));
}

Result<void> Engine::capture_drafts(const model::GraphOptions& options) {
  if (!drafter_) return {};
  return options_.speculation.mtp->capture_steps(pool_.caches(), drafter_->kept(), options);
}

bool Engine::draft() {
  backlog_ = 0;
  if (!drafter_ || paused_ || left_ || drafter_->options().max_steps == 0) return true;
  const std::vector<Sequence*> all = scheduler_.decoding(0);
  std::vector<Sequence*> able;
  for (Sequence* sequence : all) {
    if (sequence->draft.lost) continue;
    able.push_back(sequence);
    const int64_t unread = sequence->computed - sequence->draft.written;
    if (unread > 1 + drafter_->options().max_steps) backlog_ += unread;
  }
  if (able.empty()) return true;
  const auto decoding = static_cast<int64_t>(all.size());
  int64_t steps = drafter_->options().always ? drafter_->options().max_steps
                                             : policy_.choose({decoding, last_prefill_, backlog_});
  if (pass_) steps = std::min(steps, model_->beside_tokens() / decoding - 1);
  if (steps <= 0) return true;
  scheduler_.decoding(steps);
  const Result<void> done = drafter_->draft(able, steps, pool_.caches(), interrupt_);
  if (done) return true;
  if (done.error().kind == ErrorKind::kCancelled) return false;
  fail_all(done.error());
  return false;
}

namespace {

// Hidden states are kept where drafting may pay, now or once fewer sequences decode, and where the
// ledger has what a look at it costs. Otherwise the sequences of this time are never drafted for.
bool worth_keeping(const SpeculationPolicy& policy, const Speculation& options,
                   const SpeculationLoad& load) {
  if (options.always || options.max_steps == 0) return true;
  for (const SpeculationLoad& some : {load, SpeculationLoad{1, 0}}) {
    const auto plain = policy.rate(some, 0);
    for (int64_t steps = 1; steps <= options.max_steps; ++steps) {
      const auto promised = policy.rate({some.sequences, some.prefill_rows}, steps);
      if (!plain || !promised || *promised > *plain) return true;
    }
  }
  const double plain_step = static_cast<double>(load.sequences) / *policy.rate(load, 0);
  const double tokens = 1 + policy.acceptance(0);
  const double more =
      static_cast<double>(load.sequences) * tokens *
      (1 / *policy.rate(load, 1) - 1 / *policy.rate({load.sequences, load.prefill_rows}, 1));
  return policy.credit() > plain_step + more / std::min(1.0, tokens / policy.stay());
}

}  // namespace

// Before deliver(), which ends sequences.
bool Engine::keep_hidden(const StepPlan& plan) {
  if (!drafter_) return true;
  std::vector<Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  int64_t unread = 0;
  for (const StepPlan::Item& item : plan.items) {
    if (!item.sequence->draft.lost)
      unread += item.sequence->computed - item.sequence->draft.written;
  }
  const SpeculationLoad load{std::max<int64_t>(plan.decode_tokens, 1), plan.prefill_tokens, unread};
  if (left_ || !(paused_ || worth_keeping(policy_, drafter_->options(), load))) {
    for (Sequence* sequence : all) {
      sequence->draft = {};
      sequence->draft.lost = true;
    }
    return true;
  }
  const Result<int64_t> first = drafter_->keep(all);
  if (!first) {
    fail_all(first.error());
    return false;
  }
  int64_t row = *first;
  size_t sampler = 0;
  for (const StepPlan::Item& item : plan.items) {
    int64_t right = item.tokens - item.drafts;
    if (item.samples) {
      const auto drawn = static_cast<int64_t>(sampled_[sampler++].size());
      right += std::max<int64_t>(drawn - 1, 0);
    }
    DraftState& draft = item.sequence->draft;
    for (int64_t i = 0; i < right && !draft.lost; ++i) draft.rows.push_back(row + i);
    row += item.tokens;
  }
  return true;
}

void Engine::teach_policy(const StepPlan& plan) {
  last_prefill_ = plan.prefill_tokens;
  if (!drafter_ || paused_ || left_ || plan.decode_tokens == 0) return;
  if (pass_) return;  // the CPU computes what the wire would bring: other costs than at other times
  teach_experts(plan);
  policy_.record({.load = {plan.decode_tokens, plan.prefill_tokens, backlog_},
                  .steps = report_.draft_steps,
                  .rows = plan.tokens(),
                  .forward_seconds = report_.plan_seconds + report_.forward_seconds +
                                     report_.mask_seconds + report_.sample_seconds,
                  .draft_seconds = report_.draft_seconds,
                  .tokens = report_.tokens,
                  .drafted = report_.drafted,
                  .accepted = report_.accepted});
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
