// The end of a forward pass: final norm and logits.
#pragma once

#include <vector>

#include "model/layer.h"
#include "model/model.h"

namespace longshore::model {

// Norms ws.x into output.hidden (in place where that is empty) and writes the logits of
// input.logit_rows.
void run_head(StepContext& step, const std::vector<float>& norm, const WeightView& lm_head,
              const StepInput& input, const StepOutput& output);

// Whether the step shall not go on.
[[nodiscard]] inline bool cut(const StepInput& input) {
  return input.cancel != nullptr && input.cancel->cancelled();
}

// Highest position + 1. batch.tokens >= 1.
[[nodiscard]] int64_t longest_context(const kernels::BatchView& batch);

}  // namespace longshore::model
