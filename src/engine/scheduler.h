// Who runs in the next step. Plans from the state of sequences and pages alone: no clock, no model,
// no randomness.
//
// Order of a step:
//   1. Every decoding sequence gets one token, oldest first, and its guesses where there are pages.
//   One that needs a page and finds none takes the pages of the
//      youngest running sequence, which goes back to the queue and is computed again later (its
//      published prefix is still cached if nobody needed the pages).
//   2. Waiting sequences are admitted, oldest first, while pages for their whole prompt are
//   obtainable. The oldest one that
//      does not fit holds back those behind it, so that it is not starved. One whose next page is
//      just being computed by another sequence waits for it to be published, and lets others pass.
//   3. The prompt tokens of the step (prefill_budget) go in halves to the oldest prefilling
//   sequence and to those with the
//      least left: a short prompt does not wait for a long one, and the long one always advances.
//
// While a pass over prompts is under way, its sequences keep their pages and only step 1 is
// planned: who finds no page then waits for the pass to end.
//
// A pool that holds one context never deadlocks: the oldest sequence can have every page.
// Ownership: sequences belong to the engine and stay until remove(). Threading: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/sequence.h"

namespace longshore::engine {

struct SchedulerLimits {
  int64_t max_running = 64;
  int64_t prefill_budget = 512;
};

struct StepPlan {
  struct Item {
    Sequence* sequence;
    int64_t tokens;      // ids [computed, computed + tokens) go through the model
    bool samples;        // ... and the last of them gives the next token
    int64_t drafts = 0;  // of tokens, the last ones: guesses, each of which gives a token if right
  };
  std::vector<Item> items;
  int64_t decode_tokens = 0;  // guesses not counted
  int64_t draft_tokens = 0;
  int64_t prefill_tokens = 0;
  int64_t preempted = 0;
  int64_t prefix_queries = 0;
  int64_t prefix_hits = 0;
  std::vector<Sequence*> admitted;

  [[nodiscard]] int64_t tokens() const { return decode_tokens + draft_tokens + prefill_tokens; }
};

class Scheduler {
 public:
  Scheduler(PrefixCache& prefixes, const SchedulerLimits& limits)
      : prefixes_(&prefixes), limits_(limits) {}

  void add(Sequence& sequence);
  // Publishes what the sequence has computed and releases its pages. trusted == false: forgets it
  // instead, as far as nobody else uses it.
  void remove(Sequence& sequence, bool trusted = true);

  // The running sequences that decode, oldest first, each with pages for `steps` guesses as far as
  // that takes nobody's pages.
  std::vector<Sequence*> decoding(int64_t steps);
  // Every planned token has its page. Empty only if nothing waits or runs.
  StepPlan plan();
  // Step 1 alone, for a step beside a pass; perhaps empty.
  StepPlan plan_beside();

  [[nodiscard]] int64_t running() const { return static_cast<int64_t>(running_.size()); }
  [[nodiscard]] int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }

 private:
  using Queue = std::map<RequestId, Sequence*>;  // oldest first

  void plan_decoding(StepPlan& plan);
  [[nodiscard]] Sequence& youngest() const;  // of those that may be preempted
  void admit(StepPlan& plan);
  [[nodiscard]] bool may_prefill_more() const;
  [[nodiscard]] bool follows_another(Sequence& sequence) const;
  bool take_pages(Sequence& sequence, StepPlan& plan);
  void plan_prefill(StepPlan& plan);
  void preempt(Sequence& sequence, StepPlan& plan);
  void leave(Sequence& sequence, bool trusted);

  PrefixCache* prefixes_;
  SchedulerLimits limits_;
  Queue waiting_;
  Queue running_;
};

}  // namespace longshore::engine
