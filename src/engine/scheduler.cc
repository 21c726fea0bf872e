#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {
namespace {

// Prompts that are computed side by side even if one of them alone fills the budget.
constexpr int64_t kPrefilling = 8;
// Waiting sequences that one step looks past because another computes their prefix.
constexpr int64_t kHeldBack = 32;

void add_item(StepPlan& plan, Sequence& sequence, int64_t tokens) {
  plan.items.push_back({&sequence, tokens, tokens == sequence.pending()});
}

}  // namespace

void Scheduler::add(Sequence& sequence) {
  waiting_.emplace(sequence.id, &sequence);
}

// Publishing first keeps what was computed for whoever asks next, this sequence included.
void Scheduler::leave(Sequence& sequence) {
  prefixes_->publish(sequence.pages, sequence.request.cache_salt, sequence.written());
  prefixes_->release(sequence.pages);
  sequence.computed = 0;
  sequence.decoding = false;
  running_.erase(sequence.id);
}

void Scheduler::remove(Sequence& sequence) {
  if (running_.contains(sequence.id)) {
    leave(sequence);
  } else {
    LS_CHECK(waiting_.erase(sequence.id) == 1);
  }
}

void Scheduler::preempt(Sequence& sequence, StepPlan& plan) {
  leave(sequence);
  waiting_.emplace(sequence.id, &sequence);
  ++sequence.stats.preemptions;
  ++plan.preempted;
}

StepPlan Scheduler::plan() {
  StepPlan plan;
  plan_decoding(plan);
  // Whoever was just preempted must not take the pages back at once.
  if (plan.preempted == 0) admit(plan);
  plan_prefill(plan);
  LS_CHECK(!plan.items.empty() || (running_.empty() && waiting_.empty()));
  return plan;
}

void Scheduler::plan_decoding(StepPlan& plan) {
  std::vector<Sequence*> order;
  for (const auto& [id, sequence] : running_) {
    if (sequence->decoding) order.push_back(sequence);
  }
  for (Sequence* sequence : order) {
    while (running_.contains(sequence->id) &&
           !prefixes_->grow(sequence->pages, pages_for(sequence->computed + 1))) {
      preempt(*running_.rbegin()->second, plan);  // the youngest: perhaps the sequence itself
    }
    if (!running_.contains(sequence->id)) continue;
    add_item(plan, *sequence, 1);
    ++plan.decode_tokens;
  }
}

bool Scheduler::may_prefill_more() const {
  if (running() >= limits_.max_running) return false;
  int64_t sequences = 0;
  int64_t tokens = 0;
  for (const auto& [id, sequence] : running_) {
    if (sequence->decoding) continue;
    ++sequences;
    tokens += sequence->pending();
  }
  return sequences < kPrefilling || tokens < limits_.prefill_budget;
}

bool Scheduler::computed_by_another(const Sequence& sequence) const {
  const auto shared = sequence.pages.shared;
  const int64_t next_page_end = (shared + 1) * kernels::kPageTokens;
  if (static_cast<int64_t>(sequence.ids.size()) <= next_page_end)
    return false;  // the last token is always computed
  for (const auto& [id, other] : running_) {
    const bool will_publish =
        !other->decoding && other->request.cache_salt == sequence.request.cache_salt &&
        other->computed < next_page_end && static_cast<int64_t>(other->ids.size()) >= next_page_end;
    if (will_publish &&
        std::equal(other->ids.begin(), other->ids.begin() + next_page_end, sequence.ids.begin()))
      return true;
  }
  return false;
}

// Cached prefix and pages for all of the sequence's tokens, or nothing.
bool Scheduler::take_pages(Sequence& sequence, StepPlan& plan) {
  const auto tokens = static_cast<int64_t>(sequence.ids.size());
  // Beyond its own need, a page for everyone who decodes: otherwise the newcomer would be the next
  // victim.
  const int64_t spare = running();
  const int64_t missing = pages_for(tokens) - static_cast<int64_t>(sequence.pages.pages.size());
  if (missing + spare > prefixes_->obtainable() && !running_.empty()) return false;
  if (!prefixes_->grow(sequence.pages, pages_for(tokens))) return false;
  sequence.computed = sequence.pages.shared * kernels::kPageTokens;
  if (!sequence.started) {
    plan.prefix_queries += tokens;
    plan.prefix_hits += sequence.computed;
  }
  return true;
}

void Scheduler::admit(StepPlan& plan) {
  int64_t held_back = 0;
  for (auto next = waiting_.begin();
       next != waiting_.end() && held_back < kHeldBack && may_prefill_more();) {
    Sequence& sequence = *next->second;
    const int64_t known = (static_cast<int64_t>(sequence.ids.size()) - 1) / kernels::kPageTokens;
    prefixes_->find(sequence.pages, sequence.request.cache_salt, sequence.ids, known);
    if (prefixes_->enabled() && computed_by_another(sequence)) {
      prefixes_->release(sequence.pages);
      ++held_back;
      ++next;
      continue;
    }
    if (!take_pages(sequence, plan)) {
      prefixes_->release(sequence.pages);
      return;
    }
    next = waiting_.erase(next);
    running_.emplace(sequence.id, &sequence);
    plan.admitted.push_back(&sequence);
  }
}

void Scheduler::plan_prefill(StepPlan& plan) {
  std::vector<Sequence*> order;
  for (const auto& [id, sequence] : running_) {
    if (!sequence->decoding) order.push_back(sequence);
  }
  if (order.empty()) return;
  std::vector<int64_t> share(order.size(), 0);
  int64_t left = limits_.prefill_budget;
  const auto give = [&](size_t i, int64_t most) {
    const int64_t tokens = std::min({order[i]->pending() - share[i], most, left});
    share[i] += tokens;
    left -= tokens;
  };
  give(0, (limits_.prefill_budget + 1) / 2);
  std::vector<size_t> shortest(order.size());
  for (size_t i = 0; i < order.size(); ++i) shortest[i] = i;
  std::stable_sort(shortest.begin(), shortest.end(),
                   [&](size_t a, size_t b) { return order[a]->pending() < order[b]->pending(); });
  for (size_t i : shortest) give(i, left);
  for (size_t i = 0; i < order.size(); ++i) {
    if (share[i] == 0) continue;
    add_item(plan, *order[i], share[i]);
    plan.prefill_tokens += share[i];
  }
}

}  // namespace longshore::engine
