#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {
namespace {

// Prompts that are computed side by side even if one of them alone fills the budget.
constexpr int64_t kPrefilling = 8;

void add_item(StepPlan& plan, Sequence& sequence, int64_t tokens) {
  plan.items.push_back({&sequence, tokens, tokens == sequence.pending()});
}

}  // namespace

void Scheduler::add(Sequence& sequence) {
  waiting_.emplace(sequence.id, &sequence);
}

// Publishing first keeps what was computed for whoever asks next, this sequence included.
void Scheduler::leave(Sequence& sequence, bool trusted) {
  LS_CHECK_MSG(!sequence.in_pass, "a pass writes to the pages of request {}", sequence.id);
  if (trusted) {
    prefixes_->publish(sequence.pages, sequence.request.cache_salt, sequence.written());
    prefixes_->release(sequence.pages);
  } else {
    prefixes_->discard(sequence.pages);
  }
  sequence.computed = 0;
  sequence.decoding = false;
  sequence.drop_drafts();
  sequence.draft = {};
  running_.erase(sequence.id);
}

void Scheduler::remove(Sequence& sequence, bool trusted) {
  if (running_.contains(sequence.id)) {
    leave(sequence, trusted);
  } else {
    LS_CHECK(waiting_.erase(sequence.id) == 1);
  }
}

void Scheduler::preempt(Sequence& sequence, StepPlan& plan) {
  leave(sequence, /*trusted=*/true);
  waiting_.emplace(sequence.id, &sequence);
  ++sequence.stats.preemptions;
  ++plan.preempted;
}

std::vector<Sequence*> Scheduler::decoding(int64_t steps) {
  std::vector<Sequence*> order;
  for (const auto& [id, sequence] : running_) {
    if (!sequence->decoding) continue;
    order.push_back(sequence);
    if (steps > 0)
      (void)prefixes_->grow(sequence->pages, pages_for(sequence->computed + 1 + steps));
  }
  return order;
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

StepPlan Scheduler::plan_beside() {
  StepPlan plan;
  plan_decoding(plan);
  return plan;
}

Sequence& Scheduler::youngest() const {
  const auto found = std::find_if(running_.rbegin(), running_.rend(),
                                  [](const auto& entry) { return !entry.second->in_pass; });
  return *found->second;
}

void Scheduler::plan_decoding(StepPlan& plan) {
  std::vector<Sequence*> order;
  for (const auto& [id, sequence] : running_) {
    if (sequence->decoding) order.push_back(sequence);
  }
  for (Sequence* sequence : order) {
    if (!running_.contains(sequence->id)) continue;
    const auto guesses = static_cast<int64_t>(sequence->draft.ids.size());
    if (!prefixes_->grow(sequence->pages, pages_for(sequence->computed + 1 + guesses)))
      sequence->drop_drafts();
    while (running_.contains(sequence->id) &&
           !prefixes_->grow(sequence->pages, pages_for(sequence->computed + 1))) {
      preempt(youngest(), plan);  // perhaps the sequence itself
    }
    if (!running_.contains(sequence->id)) continue;
    const auto drafts = static_cast<int64_t>(sequence->draft.ids.size());
    plan.items.push_back({sequence, 1 + drafts, true, drafts});
    ++plan.decode_tokens;
    plan.draft_tokens += drafts;
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

// Prompts are compared once for every pair that meets; after that only progress is.
bool Scheduler::follows_another(Sequence& sequence) const {
  if (!prefixes_->enabled()) return false;
  if (const auto found = running_.find(sequence.follows); found != running_.end()) {
    const Sequence& other = *found->second;
    if (!other.decoding && other.computed < sequence.follows_until) return true;
  }
  sequence.follows = 0;
  const int64_t useful = (static_cast<int64_t>(sequence.ids.size()) - 1) / kernels::kPageTokens;
  const int64_t known = prefixes_->known_pages(sequence.request.cache_salt, sequence.ids, useful);
  for (const auto& [id, other] : running_) {
    if (other->decoding || other->request.cache_salt != sequence.request.cache_salt) continue;
    const auto [end, unused] = std::mismatch(sequence.ids.begin(), sequence.ids.end(),
                                             other->ids.begin(), other->ids.end());
    const int64_t common = std::min(useful, (end - sequence.ids.begin()) / kernels::kPageTokens);
    if (common <= known || other->computed >= common * kernels::kPageTokens) continue;
    sequence.follows = id;
    sequence.follows_until = common * kernels::kPageTokens;
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
  sequence.draft = {};
  if (!sequence.started) {
    plan.prefix_queries += tokens;
    plan.prefix_hits += sequence.computed;
  }
  return true;
}

void Scheduler::admit(StepPlan& plan) {
  for (auto next = waiting_.begin(); next != waiting_.end() && may_prefill_more();) {
    Sequence& sequence = *next->second;
    if (follows_another(sequence)) {
      ++next;
      continue;
    }
    const int64_t useful = (static_cast<int64_t>(sequence.ids.size()) - 1) / kernels::kPageTokens;
    prefixes_->find(sequence.pages, sequence.request.cache_salt, sequence.ids, useful);
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
