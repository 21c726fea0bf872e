#include "model/head.h"

#include <algorithm>

namespace longshore::model {

Result<void> run_head(StepContext& step, const float* norm, const WeightView& lm_head,
                      const StepInput& input, const StepOutput& output) {
  const bool host = step.backend.memory().host();
  const MatrixView x = step.ws.x.first(step.batch.tokens);
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(rows == 0 || output.logits.rows == rows);
  if (output.hidden.data != nullptr || output.keep_hidden || rows > 0) {
    // In place: the residual stream ends here.
    step.backend.rms_norm({.x = x, .weight = norm, .eps = step.config.rms_norm_eps, .y = x});
  }
  // A device has room for the logits of a serving step; scoring wants more at once.
  const int64_t block = host ? rows : step.ws.logits.max_tokens();
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    const MatrixView head_input = step.ws.head_input.first(count);
    const MatrixView wanted = output.logits.slice_rows(first, count);
    const MatrixView logits = host ? wanted : step.ws.logits.first(count);
    step.backend.gather_rows({.x = x, .rows = step.logit_rows + first, .y = head_input});
    step.backend.linear({.x = head_input, .w = lm_head, .y = logits});
    if (!host) LS_TRY_VOID(fetch(step.backend, logits, wanted));
  }
  if (output.hidden.data != nullptr) LS_TRY_VOID(fetch(step.backend, x, output.hidden));
  LS_TRY_VOID(step.backend.synchronize());
  return step.tap.status();
}

void queue_head(StepContext& step, const float* norm, const WeightView& lm_head, int64_t rows) {
  const MatrixView x = step.ws.x.first(step.batch.tokens);
  const MatrixView head_input = step.ws.head_input.first(rows);
  step.backend.rms_norm({.x = x, .weight = norm, .eps = step.config.rms_norm_eps, .y = x});
  step.backend.gather_rows({.x = x, .rows = step.logit_rows, .y = head_input});
  step.backend.linear({.x = head_input, .w = lm_head, .y = step.ws.logits.first(rows)});
}

Result<void> fetch_head(kernels::Backend& backend, const Workspace& ws, const StepInput& input,
                        const StepOutput& output) {
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(output.logits.rows == rows);
  LS_TRY_VOID(fetch(backend, ws.logits.first(rows), output.logits));
  if (output.hidden.data == nullptr) return {};
  return fetch(backend, ws.x.first(input.batch.tokens), output.hidden);
}

Result<void> check_cancel(const StepInput& input) {
  if (input.cancel == nullptr || !input.cancel->cancelled()) return {};
  return fail(ErrorKind::kCancelled, "stopped");
}

int64_t longest_context(const kernels::BatchView& batch) {
  return 1 + *std::max_element(batch.positions, batch.positions + batch.tokens);
}

}  // namespace longshore::model
