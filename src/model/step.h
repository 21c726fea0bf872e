// What goes into one forward pass and what comes out of it.
#pragma once

#include <cstdint>
#include <span>

#include "base/cancel.h"
#include "base/tensor.h"
#include "kernels/ops_sample.h"
#include "kernels/paged.h"
#include "model/kv_layout.h"
#include "model/observer.h"

namespace longshore::model {

// What one step may hold at most. Memory for it is taken at load.
struct StepLimits {
  int64_t tokens = 0;      // T
  int64_t sequences = 64;  // B
  int64_t drafts = 0;      // guesses that each of them may bring beside its token
  int64_t context = 0;  // positions of a sequence beside others; 0: the model's. A sequence alone
                        // may have as many as the model has
};

// One step over a ragged batch, all in host memory but the caches. Every position of a sequence
// below the batch's lowest one has been through forward() (same caches) before.
struct StepInput {
  const int32_t* ids = nullptr;         // [T] in [0, vocab)
  kernels::BatchView batch;             // T tokens
  std::span<const int32_t> logit_rows;  // rows in [0, T) whose logits are wanted
  std::span<const LayerCache> caches;   // [KvLayout::layers()], in the backend's memory
  Observer* observer = nullptr;
  const CancelToken* cancel = nullptr;  // asked before every layer
  // Mtp only: [T] rows of the hidden states that go with the step; nullptr: row t is token t's.
  const int32_t* hidden_rows = nullptr;
};

// In host memory, rows without gaps.
struct StepOutput {
  MatrixView hidden;  // [T, hidden] fp32 out: after the final norm. data == nullptr: not wanted
  MatrixView logits;  // [logit_rows.size(), vocab] fp32 out
  // [logit_rows.size()] out: ids drawn from the logits by `rules`, as kernels::DrawParams says.
  // Empty: none. Where drawn_only is 1, the id is all that is wanted of the row: from a device its
  // logits do not come then; in host memory they are written all the same.
  std::span<int32_t> drawn = {};
  std::span<const kernels::DrawRule> rules = {};  // [drawn.size()]
  std::span<const uint8_t> drawn_only = {};       // [drawn.size()]
};

}  // namespace longshore::model
