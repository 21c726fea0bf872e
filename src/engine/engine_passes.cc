// Prompts whose experts stream: the engine's steps for those who decode in the pauses of their
// pass.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/engine.h"

namespace longshore::engine {
namespace {

// Seconds in which the wire brings all that has no slot.
double stream_seconds(const offload::ExpertStore& store) {
  const auto bytes =
      static_cast<double>((store.experts().size() - store.slots()) * store.expert_bytes());
  return bytes / store.device()->measured().wire_bytes_per_second;
}

}  // namespace

// Where a single step would put a whole pass behind by more than its share, who decodes gets a
// token in the pass for nothing.
bool Engine::splits(const StepPlan& plan) const {
  if (pass_ || options_.beside_share < 0 || plan.decode_tokens == 0) return false;
  if (!model_->pausable(plan.prefill_tokens)) return false;
  if (plan.decode_tokens + plan.draft_tokens > model_->beside_tokens()) return false;
  return beside_cost_ <= options_.beside_share * stream_seconds(model_->experts());
}

// Takes the prompts out of the plan. The wire is at work from here on; who decodes has the first
// pause, as what comes before it has to fit in beside the first copies.
void Engine::begin_pass(StepPlan& plan) {
  pass_.emplace();
  StepPlan& prompts = pass_->plan;
  const auto first =
      std::stable_partition(plan.items.begin(), plan.items.end(),
                            [](const StepPlan::Item& item) { return item.sequence->decoding; });
  prompts.items.assign(first, plan.items.end());
  plan.items.erase(first, plan.items.end());
  std::swap(prompts.prefill_tokens, plan.prefill_tokens);
  for (const StepPlan::Item& item : prompts.items) item.sequence->in_pass = true;
  pass_->batch.build(prompts);
  model::StepInput input = pass_->batch.input();
  input.caches = pool_.caches();
  model_->begin_pass(input);
  ++counters_.paused_passes;
  if (drafter_) options_.speculation.mtp->experts().leave_wire(true);
  if (advance_pass()) learn_cost(model_->await_pass());
}

bool Engine::advance_pass() {
  const bool more = model_->advance_pass();
  count_pass_layers();
  return more;
}

void Engine::count_pass_layers() {
  const int64_t layers = model_->queued_layers();
  report_.pass_layers += layers - std::exchange(pass_->layers, layers);
}

// One of its prompts has somebody who waits for it.
bool Engine::pass_is_wanted() const {
  const auto now = Sequence::Clock::now();
  return std::any_of(pass_->plan.items.begin(), pass_->plan.items.end(),
                     [now](const StepPlan::Item& item) {
                       const Sequence& sequence = *item.sequence;
                       const auto& deadline = sequence.request.deadline;
                       return !sequence.cancelled && !(deadline && now >= *deadline);
                     });
}

// The wire works while others decode.
void Engine::go_on_with_pass() {
  Stopwatch watch;
  if (interrupt_ != nullptr && interrupt_->cancelled()) return;
  if (!advance_pass()) {
    report_.pass_seconds = watch.lap();
    finish_pass();
    return;
  }
  if (scheduler_.decoding(0).empty()) {
    report_.pass_seconds = watch.lap();
    return;
  }
  const double behind = model_->await_pass();
  report_.pass_seconds = watch.lap();
  learn_cost(behind);
  if (may_step_beside(behind)) run_step();
}

// A step beside the pass has given its tokens.
void Engine::count_beside() {
  count_pass_layers();
  pass_->stepped_on = true;
  report_.beside_seconds = pass_->since_token.lap();
  ++counters_.beside_steps;
}

// What the copies ahead cover costs nothing, so that this is measured, not made of the step's time.
void Engine::learn_cost(double behind) {
  if (!std::isfinite(behind)) return;
  if (pass_->stepped_on) {
    const double seconds = std::max(behind - pass_->behind, 0.0);
    beside_cost_ = beside_cost_ == 0 ? seconds : (seconds + beside_cost_) / 2;
  }
  pass_->behind = behind;
  pass_->stepped_on = false;
}

bool Engine::may_step_beside(double behind) const {
  return behind + beside_cost_ <= options_.beside_share * pass_->since_begin.seconds();
}

void Engine::finish_pass() {
  Stopwatch watch;
  start_masks(pass_->plan);
  const auto rows = static_cast<int64_t>(pass_->batch.input().logit_rows.size());
  const Result<void> done = model_->finish_pass(output_of(pass_->plan, rows));
  report_.forward_seconds = watch.lap();
  masks_.wait();
  report_.mask_seconds = watch.lap();
  const StepPlan plan = pass_->plan;
  end_pass();
  passed(plan, done) ? complete(plan) : note_hidden(plan, /*done=*/false);
}

// The model's part has ended: finished or abandoned.
void Engine::end_pass() {
  LS_CHECK(!model_->in_pass());
  for (const StepPlan::Item& item : pass_->plan.items) item.sequence->in_pass = false;
  pass_.reset();
  if (drafter_) options_.speculation.mtp->experts().leave_wire(false);
}

}  // namespace longshore::engine
