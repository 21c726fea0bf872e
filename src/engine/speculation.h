// Drafts: what the MTP layer thinks the next tokens are, for one forward pass of the target to
// check.
//
// The target draws every token itself, from its own logits, with the sampler that plain decoding
// uses and the same random number; a draft only says which draws can be made side by side. It is
// accepted where it equals the target's draw. The draft is a function of the draft's logits and of
// that random number alone, so the output's distribution is the target's exactly, with every
// penalty, bias and mask, and for a seed the very tokens that plain decoding gives.
//
// The draft's row t takes the target's hidden state at t and the id at t + 1. Its cache lies in the
// target's pages as one more layer. What it has not read yet waits as hidden states in the
// backend's memory (HiddenRows) and, past that, in the host's: while nothing is drafted, it costs a
// copy, and is caught up when drafting begins.
//
// Ownership: Mtp outlives the drafter. Threading: the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/threads.h"
#include "engine/batch.h"
#include "engine/hidden_rows.h"
#include "engine/sequence.h"
#include "model/model.h"

namespace longshore::engine {

struct Speculation {
  model::Mtp* mtp = nullptr;  // null: no drafts. Its layer is the caches' last
  int64_t max_steps = 0;      // depth; 0: no drafts
  bool always = false;        // max_steps deep in every step: no cost model
  // For measurements. A draft counts as right with this probability, whatever the target says; the
  // output is then worthless. Below 0: off.
  double forced_acceptance = -1;
  bool wrong_drafts = false;                    // every draft is made a wrong one
  int64_t ring_bytes = HiddenRows::kRingBytes;  // at Engine::create()

  [[nodiscard]] bool on() const { return mtp != nullptr && max_steps > 0; }
};

class Drafter {
 public:
  // kMemory: room for hidden states in the backend's memory. kDevice.
  static Result<std::unique_ptr<Drafter>> create(const Speculation& options, model::Model& target,
                                                 ThreadPool& threads);
  // The layer is the same.
  void set_options(const Speculation& options) { options_ = options; }

  // Reads what the draft has not read (at least a row, else there are no drafts) and proposes up to
  // `steps` ids for each sequence, fewer where it will end before or has no page for more:
  // sequence.draft.ids. Sequences decode and are not lost. Interrupted or failed: no drafts.
  // kCancelled, kDevice.
  [[nodiscard]] Result<void> draft(std::span<Sequence* const> sequences, int64_t steps,
                                   std::span<const model::LayerCache> caches,
                                   const CancelToken* cancel);
  // Keeps the hidden states of the target's last step; its rows have the numbers that follow the
  // one that comes back. all: every sequence that has any. Those that are about to be written over
  // go to the host, and past kKeptBytes there their sequence is lost to drafting. kDevice.
  [[nodiscard]] Result<int64_t> keep(std::span<Sequence* const> all);
  // Of the graphs' inputs (model::Mtp::capture_steps).
  [[nodiscard]] ConstMatrixView kept() const { return kept_->all(); }
  [[nodiscard]] const Speculation& options() const { return options_; }

  static constexpr int64_t kKeptBytes = int64_t{1} << 30;

 private:
  struct Turn {
    Sequence* sequence;
    int64_t most;     // drafts
    int32_t row = 0;  // the draft's last row of the pass before
  };
  Drafter(const Speculation& options, model::Model& target, ThreadPool& threads)
      : options_(options),
        target_(&target),
        backend_(&options.mtp->backend()),
        threads_(&threads) {}

  Result<void> catch_up(std::span<Turn> turns);
  Result<void> deeper(std::span<Turn* const> turns);
  // The batch goes through the layer; logits_ of the wanted rows and hidden_ of all are there.
  // hidden: what rows_ are rows of.
  Result<void> run(std::span<Turn* const> last, ConstMatrixView hidden);
  void propose(Turn& turn, std::span<float> logits);
  // The hidden state of a sequence's i-th unread position is the next row's.
  void add_hidden(const DraftState& draft, int64_t i);
  static void drop_read(DraftState& draft, int64_t count, int64_t width);

  Speculation options_;
  model::Model* target_;
  kernels::Backend* backend_;
  ThreadPool* threads_;
  std::unique_ptr<HiddenRows> kept_;
  Batch batch_;
  std::vector<int32_t> rows_;  // [tokens] of the hidden states that a pass goes on from
  std::vector<float> logits_;  // [wanted rows, vocab]
  std::span<const model::LayerCache> caches_;
  const CancelToken* cancel_ = nullptr;
};

}  // namespace longshore::engine
