#include "model/head.h"

#include <algorithm>

namespace longshore::model {

namespace {

bool all_greedy(std::span<const kernels::DrawRule> rules) {
  return std::all_of(rules.begin(), rules.end(),
                     [](const kernels::DrawRule& rule) { return rule.temperature == 0; });
}

// Ids of the rows [first, first + logits.rows) of the output, whose logits lie at `logits`.
Result<void> fetch_drawn(kernels::Backend& backend, const Workspace& ws, ConstMatrixView logits,
                         int64_t first, const StepOutput& output) {
  if (output.drawn.empty()) return {};
  const auto count = static_cast<size_t>(logits.rows);
  const auto rules = output.rules.subspan(static_cast<size_t>(first), count);
  int32_t* wanted = output.drawn.data() + first;
  if (backend.memory().host()) {
    backend.draw(
        {.logits = logits, .rules = rules.data(), .greedy = all_greedy(rules), .ids = wanted});
    return {};
  }
  const MatrixView ids = ws.drawn.first(logits.rows);
  queue_draw(backend, ws, logits, rules, ids);
  return fetch(backend, ids,
               {reinterpret_cast<std::byte*>(wanted), DType::kI32, logits.rows, 1, 1});
}

// The same rows' logits from a device, where somebody reads them.
Result<void> fetch_logits(kernels::Backend& backend, MatrixView logits, int64_t first,
                          const StepOutput& output) {
  const auto skipped = [&](int64_t row) {
    return !output.drawn_only.empty() && output.drawn_only[static_cast<size_t>(first + row)] != 0;
  };
  for (int64_t row = 0; row < logits.rows;) {
    int64_t end = row;
    while (end < logits.rows && skipped(end) == skipped(row)) ++end;
    if (!skipped(row)) {
      LS_TRY_VOID(fetch(backend, logits.slice_rows(row, end - row),
                        output.logits.slice_rows(first + row, end - row)));
    }
    row = end;
  }
  return {};
}

}  // namespace

Result<void> run_head(StepContext& step, const float* norm, const WeightView& lm_head,
                      const StepInput& input, const StepOutput& output) {
  const bool host = step.backend.memory().host();
  const MatrixView x = step.state.x.first(step.batch.tokens);
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(rows == 0 || output.logits.rows == rows);
  LS_CHECK(output.drawn.empty() || static_cast<int64_t>(output.drawn.size()) == rows);
  if (output.hidden.data != nullptr || rows > 0) {
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
    LS_TRY_VOID(fetch_drawn(step.backend, step.ws, logits, first, output));
    if (!host) LS_TRY_VOID(fetch_logits(step.backend, logits, first, output));
  }
  if (output.hidden.data != nullptr) LS_TRY_VOID(fetch(step.backend, x, output.hidden));
  LS_TRY_VOID(step.backend.synchronize());
  return step.tap.status();
}

void queue_head(StepContext& step, const float* norm, const WeightView& lm_head, int64_t rows) {
  const MatrixView x = step.state.x.first(step.batch.tokens);
  const MatrixView head_input = step.ws.head_input.first(rows);
  step.backend.rms_norm({.x = x, .weight = norm, .eps = step.config.rms_norm_eps, .y = x});
  step.backend.gather_rows({.x = x, .rows = step.logit_rows, .y = head_input});
  step.backend.linear({.x = head_input, .w = lm_head, .y = step.ws.logits.first(rows)});
}

void queue_draw(kernels::Backend& backend, const Workspace& ws, ConstMatrixView logits,
                std::span<const kernels::DrawRule> rules, MatrixView ids) {
  kernels::DrawParams params{
      .logits = logits, .greedy = all_greedy(rules), .ids = ids.row_as<int32_t>(0)};
  if (!params.greedy) {
    const MatrixView there = ws.draw_rules.first(logits.rows);
    backend.copy_ints(reinterpret_cast<const int32_t*>(rules.data()), there.rows * there.cols,
                      there.row_as<int32_t>(0));
    params.rules = reinterpret_cast<const kernels::DrawRule*>(there.data);
  }
  backend.draw(params);
}

Result<void> fetch_head(kernels::Backend& backend, const Workspace& ws, const LayerState& state,
                        const StepInput& input, const StepOutput& output) {
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(output.logits.rows == rows);
  LS_TRY_VOID(fetch_drawn(backend, ws, ws.logits.first(rows), 0, output));
  LS_TRY_VOID(fetch_logits(backend, ws.logits.first(rows), 0, output));
  if (output.hidden.data == nullptr) return {};
  return fetch(backend, state.x.first(input.batch.tokens), output.hidden);
}

Result<void> check_cancel(const StepInput& input) {
  if (input.cancel == nullptr || !input.cancel->cancelled()) return {};
  return fail(ErrorKind::kCancelled, "stopped");
}

int64_t longest_context(const kernels::BatchView& batch) {
  return 1 + *std::max_element(batch.positions, batch.positions + batch.tokens);
}

}  // namespace longshore::model
