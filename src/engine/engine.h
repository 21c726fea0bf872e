// The batching engine: requests join and leave between steps; each step is one forward pass over a
// ragged batch of decoding sequences and prefill chunks.
//
// Where the experts of prompts stream from host memory, such a chunk is a pass of its own that
// pauses for steps of those who decode (model::Model::begin_pass).
//
// submit -> Scheduler (who runs: a StepPlan) -> BatchBuilder (ids, positions, page table) ->
// Model::forward -> Sampler -> Listener. Pages come from one KvPool; finished and full pages stay
// in the PrefixCache until the pool needs them.
//
// Ownership: model and thread pool outlive the engine. Threading: one thread calls everything
// (EngineLoop gives the engine a thread of its own and a door for others).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/cancel.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/threads.h"
#include "device/buffer.h"
#include "engine/batch.h"
#include "engine/kv_pool.h"
#include "engine/mask_worker.h"
#include "engine/prefix_cache.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/speculation.h"
#include "engine/speculation_policy.h"
#include "model/model.h"

namespace longshore::engine {

struct EngineOptions {
  int64_t context_length = 0;    // tokens of one request's prompt and output together
  int64_t max_running = 64;      // sequences of one step
  int64_t prefill_budget = 512;  // prompt tokens of one step, all requests together
  int64_t pages =
      0;  // of the pool; 0: one context and, as far as memory is, one for every running request
  int64_t max_queued = -1;  // waiting requests; -1: no limit
  bool prefix_cache = true;
  Speculation speculation = {};  // its layer outlives the engine
  // How much longer steps beside it may make a prompts' pass that pauses, of its time. Infinite: a
  // step in every pause. Negative, and where one step alone would make a whole pass longer than
  // that: no pass pauses, who decodes gets one token in each.
  double beside_share = 1.0 / 12;
};

// kIgnored: the caller has kept the limit itself.
enum class QueueLimit { kKept, kIgnored };

// What one step did and where its time went.
struct StepReport {
  int64_t decode_tokens = 0;
  int64_t prefill_tokens = 0;
  int64_t preempted = 0;
  int64_t prefix_queries = 0;     // prompt tokens looked up in the prefix cache
  int64_t prefix_hits = 0;        // of these, found
  int64_t draft_rows = 0;         // guesses that went through the target
  int64_t draft_steps = 0;        // depth of the drafts
  std::vector<int64_t> drafted;   // [depth] guesses that the target looked at
  std::vector<int64_t> accepted;  // [depth] of these, right
  int64_t tokens = 0;             // that decoding sequences got
  int64_t passes = 0;             // forward passes that ended
  int64_t pass_layers = 0;        // that a pass which pauses went on by
  // Of these, where others decode beside them. Not in forward_seconds, which have what a pass went
  // on by during a step beside it.
  double pass_seconds = 0;
  // Between two tokens of those who decode beside a pass: the step's token, and the time since the
  // one before or the pass's begin. 0: none did.
  double beside_seconds = 0;
  double draft_seconds = 0;
  double plan_seconds = 0;  // scheduling and batch building
  double forward_seconds = 0;
  double mask_seconds = 0;  // of waiting for masks after the forward pass
  double sample_seconds = 0;
  double deliver_seconds = 0;  // listeners, release of what finished
};

// Totals since the start, and the state now.
struct EngineCounters {
  int64_t running = 0;
  int64_t queued = 0;
  int64_t pages = 0;  // capacity
  int64_t free_pages = 0;
  int64_t cached_pages = 0;   // held by the prefix cache alone: taken back when needed
  int64_t steps = 0;          // forward passes
  int64_t paused_passes = 0;  // prompts' passes that could pause, abandoned ones included
  int64_t beside_steps = 0;   // of these, steps while one paused
  int64_t finished = 0;
  int64_t cancelled = 0;
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;  // computed, not found in the cache
  int64_t generated_tokens = 0;
  int64_t prefix_queries = 0;
  int64_t prefix_hits = 0;
  int64_t decode_steps = 0;        // (step, decoding sequence) pairs
  int64_t decode_output = 0;       // tokens that these gave
  int64_t speculated = 0;          // of the pairs, with drafts
  int64_t draft_rows = 0;          // guesses that went through the target
  int64_t draft_steps = 0;         // depth of the last step's drafts
  std::vector<int64_t> drafted;    // [depth] guesses that the target looked at
  std::vector<int64_t> accepted;   // [depth] of these, right
  std::vector<double> acceptance;  // [depth] as the cost model takes it
  double routing_overlap = 0;      // between neighbouring tokens, as the cost model takes it
  double draft_seconds = 0;
  double plan_seconds = 0;
  double forward_seconds = 0;
  double sample_seconds = 0;
  double deliver_seconds = 0;
  // The device's first fault. It is for good: every request ends with it.
  std::optional<Error> fault;
};

class Engine {
 public:
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  // With speculation, model.limits().tokens has room for 1 + max_steps rows of every running
  // sequence beside the prompt's.
  // kMemory: the pool. kUsage: options that contradict each other.
  static Result<std::unique_ptr<Engine>> create(model::Model& model, const model::KvLayout& layout,
                                                ThreadPool& threads, const EngineOptions& options);
  // How many drafts are made from now on; speculation is on. For measurements.
  void set_speculation(const Speculation& speculation);
  // While paused nothing is guessed, but for the one guess that comes with reading a prompt where
  // that is worth it, and nothing is learnt.
  void pause_speculation(bool paused) { paused_ = paused; }
  // As an engine without speculation: nothing of it is asked, noted or learnt. For comparisons.
  void leave_speculation(bool left) { left_ = left; }
  // What is known of the drafts' worth; it can be given back after set_speculation().
  [[nodiscard]] const SpeculationPolicy& policy() const { return policy_; }
  void set_policy(const SpeculationPolicy& policy) { policy_ = policy; }
  // Every sequence has given a token: no prompt is being read, nobody waits.
  [[nodiscard]] bool decoding_only() const;
  // Captures the draft's steps (model::Mtp::capture_steps), after the target's, and measures what
  // both take, as far as that is the same in every step; nothing without speculation. Nothing has
  // been submitted. kDevice.
  [[nodiscard]] Result<void> capture_drafts(const model::GraphOptions& options);

  // kUsage: the request cannot be run (empty or too long prompt, ids or sampling out of range).
  // kBusy: the queue is full. On error the listener is never called.
  Result<RequestId> submit(GenerationRequest request, Listener listener,
                           QueueLimit limit = QueueLimit::kKept);
  // The same checks alone; any thread.
  [[nodiscard]] Result<void> validate(const GenerationRequest& request) const;
  // The request ends as kCancelled in the next step() and its pages are free when that returns; if
  // a pass over several prompts computes it, when that ends or all of them are cancelled. Unknown
  // ids are ignored: it may just have finished.
  void cancel(RequestId id);

  // Once `cancel`, unless null, is cancelled, a forward pass ends before its next layer: that step
  // gives no token and every sequence stays as it was, for the next step to do again. The caller
  // then cancels what shall end. The token outlives its use here.
  void set_interrupt(const CancelToken* cancel) { interrupt_ = cancel; }
  // Prompts' passes pause from now on, or do not: EngineOptions::beside_share.
  void set_beside_share(double share) { options_.beside_share = share; }
  // One step, or a pass that pauses up to its next pause and perhaps a step in it. False: there
  // was nothing to do.
  bool step();
  [[nodiscard]] bool idle() const { return sequences_.empty(); }

  [[nodiscard]] const EngineCounters& counters() const { return counters_; }
  [[nodiscard]] const StepReport& last_step() const { return report_; }
  // Of all sequences; they do not move.
  [[nodiscard]] std::span<const model::LayerCache> caches() const { return pool_.caches(); }
  [[nodiscard]] const EngineOptions& options() const { return options_; }
  // Every page is free, cached or used by exactly the sequences that list it; ends the program
  // otherwise. Idle or not.
  void check_conservation() const;
  // Forgets all prefixes that no sequence uses.
  void clear_prefix_cache();

 private:
  Engine(model::Model& model, ThreadPool& threads, const EngineOptions& options, KvPool pool);

  // Ends what was cancelled, is past its deadline or wants no tokens.
  void end_early();
  void start_admitted(const StepPlan& plan);
  // Plans and runs a step; beside a pass one of those who decode.
  void run_step();
  // False: interrupted, nothing has changed; or a fault, all sequences have ended.
  bool forward(const StepPlan& plan);
  // What a pass gives to its sequences: tokens, hidden states, what it teaches.
  void complete(const StepPlan& plan);
  // What is wanted of a pass with so many rows of logits.
  model::StepOutput output_of(const StepPlan& plan, int64_t rows);
  // The pass of the plan went well, or not (then as forward()).
  bool passed(const StepPlan& plan, const Result<void>& result);
  // Ends every sequence with fault.
  void fail_all(const Error& fault);
  // The part of engine_passes.cc: prompts' passes that pause.
  [[nodiscard]] bool splits(const StepPlan& plan) const;
  void begin_pass(StepPlan& plan);
  void go_on_with_pass();
  // Up to its next pause; false: there is none.
  bool advance_pass();
  void count_pass_layers();
  void finish_pass();
  void end_pass();
  [[nodiscard]] bool pass_is_wanted() const;
  [[nodiscard]] bool may_step_beside(double behind) const;
  void learn_cost(double behind);
  void count_beside();
  // Rows whose ids a device draws, and need not send the logits of.
  void ask_for_draws(const StepPlan& plan, model::StepOutput& output);
  void publish(Sequence& sequence);
  // Guesses for the sequences that decode, where that pays. False: interrupted or a fault.
  bool draft();
  // Where the pass, if it came to its end, left the hidden states that the draft goes on from.
  void note_hidden(const StepPlan& plan, bool done);
  // Seconds of captured passes and of drafts by rows, before any request. kDevice.
  Result<void> measure_costs();
  Result<double> time_pass(int64_t rows);
  Result<double> time_draft(int64_t sequences, int64_t depth);
  // Which guesses were right, before deliver(), which ends sequences.
  void count_guesses();
  void teach_policy(const StepPlan& plan);
  void teach_experts(const StepPlan& plan);
  void sample(const StepPlan& plan);
  void deliver();
  // False: the sequence has ended.
  bool deliver_token(Sequence& sequence, const Sampled& sampled);
  void finish(Sequence& sequence, FinishReason reason, std::optional<Error> error = {});
  void start_masks(const StepPlan& plan);
  void sample_sequence(size_t i);
  void count_step();
  void count_drafts();

  model::Model* model_;
  ThreadPool* threads_;
  const CancelToken* interrupt_ = nullptr;
  EngineOptions options_;
  KvPool pool_;
  PrefixCache prefixes_;
  Scheduler scheduler_;
  Batch batch_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  RequestId next_id_ = 1;
  device::Buffer logits_;                 // [rows of the step, vocab] fp32
  bool on_device_ = false;                // the logits come from there
  std::vector<int32_t> drawn_;            // [rows of the step] as StepOutput's, or empty
  std::vector<kernels::DrawRule> rules_;  // likewise
  std::vector<uint8_t> drawn_only_;       // likewise
  struct Sampling {
    Sequence* sequence;
    size_t row;     // its first row of logits
    size_t drafts;  // rows that follow it
  };
  std::vector<Sampling> samplers_;
  std::vector<std::vector<Sampled>> sampled_;  // [samplers_] the draws in order, at least one
  enum class Fault : uint8_t { kNone, kLogits, kDeadEnd };
  std::vector<Fault>
      faulty_;  // [samplers_] after the draws: logits with NaN or infinity; nothing allowed
  MaskWorker masks_;
  std::unique_ptr<Drafter> drafter_;  // null: no speculation
  MeasuredCosts measured_;
  SpeculationPolicy policy_{0};
  int64_t passes_ = 0;      // of the step's drafts
  SpeculationStep taught_;  // of its guesses those that teach: of sequences that are not blind
  int64_t backlog_ = 0;     // rows that the step's drafts had to read beyond the last step's
  int64_t routed_ = 0;      // of the target's experts, before the step
  bool paused_ = false;
  bool left_ = false;
  int64_t last_prefill_ = 0;
  // Prompts that a pass computes which pauses.
  struct Pass {
    StepPlan plan;
    Batch batch;
    int64_t layers = 0;  // that reports have
    Stopwatch since_begin;
    Stopwatch since_token;    // of those who decode beside it
    double behind = 0;        // seconds, when last known
    bool stepped_on = false;  // by those who decode, since then
  };
  std::optional<Pass> pass_;
  double beside_cost_ = 0;  // seconds that a step beside a pass put it behind, as the last ones did
  StepReport report_;
  EngineCounters counters_;
};

}  // namespace longshore::engine
