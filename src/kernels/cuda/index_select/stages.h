// The stages of index_select. A pass takes tokens [first, first + count) whose scores fit in
// scratch memory at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

struct ScorePass {
  IndexSelectParams p;
  int64_t first = 0;
  int64_t count = 0;
  bool all = false;         // tokens that see at most top_k positions are scored too
  int64_t width = 0;        // of a row of scores: page_table_width * 64
  float* scores = nullptr;  // [count, width]
};

// Scores in fp32 from queries rounded to bf16, any shape: small models.
[[nodiscard]] int64_t score_any_bytes(const IndexSelectParams& p, int64_t count);
void score_any(Context& context, const ScorePass& pass);

// Scores on FP8 tensor cores: compute capability 9.0, head_dim 128, 32 heads.
[[nodiscard]] bool takes_score_fp8(const Context& context, const IndexSelectParams& p);
[[nodiscard]] int64_t score_fp8_bytes(int64_t count);
void score_fp8(Context& context, const ScorePass& pass);

// p.selected and p.counts of the pass's tokens.
void select_top(Context& context, const ScorePass& pass);

}  // namespace longshore::kernels::cuda
