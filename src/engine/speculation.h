// Drafts: what the MTP layer thinks the next tokens are, for one forward pass of the target to
// check.
//
// The target draws every token itself, from its own logits, with the sampler that plain decoding
// uses and the same random number; a draft only says which draws can be made side by side. It is
// accepted where it equals the target's draw. The draft is a function of the draft's logits and of
// that random number alone, so the output's distribution is the target's exactly, with every
// penalty, bias and mask, and for a seed the very tokens that plain decoding gives.
//
// The draft's row t takes the target's hidden state at t and the id at t + 1. It reads them where
// the target's last pass left them and nothing is kept beyond that: what a step without guesses
// leaves behind is not read, and the draft counts places of its own (DraftState). Its cache lies in
// the target's pages as one more layer, which no other sequence reads. Two sequences that were
// given the same page may write over each other's there: that can cost a guess, never a token.
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
  bool wrong_drafts = false;  // every draft is made a wrong one
  // For tests that shall not depend on the clock: what a step took as the cost model hears it is
  // 1 and so much for every row, and so much for every pass of the draft. Below 0: off.
  double row_seconds = -1;
  double pass_seconds = 0;

  [[nodiscard]] bool on() const { return mtp != nullptr && max_steps > 0; }
};

class Drafter {
 public:
  Drafter(const Speculation& options, model::Model& target, ThreadPool& threads)
      : options_(options), target_(&target), threads_(&threads) {}
  // The layer is the same.
  void set_options(const Speculation& options) { options_ = options; }

  // Reads what the draft has not read (at least a row, else there are no drafts) and proposes up to
  // `steps` ids for each sequence, fewer where it will end before or has no page for more:
  // sequence.draft.ids. Sequences decode. Returns how many passes that took at most, one after the
  // other. Interrupted or failed: no drafts, and nothing is read. kCancelled, kDevice.
  [[nodiscard]] Result<int64_t> draft(std::span<Sequence* const> sequences, int64_t steps,
                                      std::span<const model::LayerCache> caches,
                                      const CancelToken* cancel);
  [[nodiscard]] const Speculation& options() const { return options_; }

  // Positions before a sequence's first guess that the draft reads at most.
  static const int64_t kWindow;

 private:
  struct Turn {
    Sequence* sequence;
    int64_t most;       // drafts
    DraftState before;  // without guesses
    int32_t row = 0;    // the draft's last row of the pass before
  };

  // What the host must look at between two guesses, and what it need not.
  Result<void> guess(std::span<Turn> turns);
  Result<void> guess_on_device(std::span<Turn> turns);
  // batch_ and rows_ of the first guess, and of one that goes deeper than `depth` guesses: the
  // draft reads its own guess with its own hidden state. What it writes into its cache then is
  // written again when the target's is known.
  void read(std::span<Turn> turns);
  void go_deeper(std::span<Turn* const> turns, int64_t depth);
  [[nodiscard]] model::StepInput input();
  // The batch goes through the layer and the host draws.
  Result<void> run(std::span<Turn* const> turns, ConstMatrixView hidden);
  void propose(Turn& turn, std::span<float> logits);

  Speculation options_;
  model::Model* target_;
  ThreadPool* threads_;
  int64_t passes_ = 0;
  Batch batch_;
  std::vector<int32_t> rows_;             // [tokens] of the hidden states that a pass goes on from
  std::vector<float> logits_;             // [wanted rows, vocab]
  std::vector<kernels::DrawRule> rules_;  // [wanted rows]
  std::vector<int32_t> drawn_;            // [wanted rows of all passes]
  std::span<const model::LayerCache> caches_;
  const CancelToken* cancel_ = nullptr;
};

}  // namespace longshore::engine
