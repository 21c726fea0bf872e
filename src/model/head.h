// The end of a forward pass: final norm and logits.
#pragma once

#include "model/layer.h"
#include "model/model.h"

namespace longshore::model {

// Ends the step: norms state.x in place, where hidden states or logits are wanted, writes both to
// the output and waits for it. kDevice.
[[nodiscard]] Result<void> run_head(StepContext& step, const float* norm, const WeightView& lm_head,
                                    const StepInput& input, const StepOutput& output);

// The device's part of a captured step's end: final norm and logits of so many rows into ws.logits.
void queue_head(StepContext& step, const float* norm, const WeightView& lm_head, int64_t rows);
// Draws on a device: ids [logits.rows, 1] int32 there, rules [logits.rows] the host's.
void queue_draw(kernels::Backend& backend, const Workspace& ws, ConstMatrixView logits,
                std::span<const kernels::DrawRule> rules, MatrixView ids);
// The host's: waits, and fetches what is wanted. kDevice.
[[nodiscard]] Result<void> fetch_head(kernels::Backend& backend, const Workspace& ws,
                                      const LayerState& state, const StepInput& input,
                                      const StepOutput& output);

// kCancelled: the step shall not go on.
[[nodiscard]] Result<void> check_cancel(const StepInput& input);

// Highest position + 1. Of the host's batch; batch.tokens >= 1.
[[nodiscard]] int64_t longest_context(const kernels::BatchView& batch);

}  // namespace longshore::model
