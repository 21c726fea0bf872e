#include "model/head.h"

#include <algorithm>

namespace longshore::model {

void run_head(StepContext& step, const std::vector<float>& norm, const WeightView& lm_head,
              const StepInput& input, const StepOutput& output) {
  const MatrixView x = step.ws.x.first(step.batch.tokens);
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(rows == 0 || output.logits.rows == rows);
  if (output.hidden.data == nullptr && rows == 0) return;
  // In place where nobody wants the hidden states: the residual stream ends here.
  const MatrixView hidden = output.hidden.data != nullptr ? output.hidden : x;
  step.backend.rms_norm(
      {.x = x, .weight = norm.data(), .eps = step.config.rms_norm_eps, .y = hidden});
  if (rows == 0) return;
  const MatrixView head_input = step.ws.head_input.first(rows);
  step.backend.gather_rows({.x = hidden, .rows = input.logit_rows.data(), .y = head_input});
  step.backend.linear({.x = head_input, .w = lm_head, .y = output.logits});
}

int64_t longest_context(const kernels::BatchView& batch) {
  return 1 + *std::max_element(batch.positions, batch.positions + batch.tokens);
}

}  // namespace longshore::model
