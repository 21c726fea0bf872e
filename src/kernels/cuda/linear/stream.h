// Linear layers of few tokens, bound by the reading of their weights.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// FP8 in blocks of [multiples of 16, 128] or bf16, rows of whole 128 bytes.
[[nodiscard]] bool can_stream(const WeightView& w, int64_t rows_per_head);

constexpr int64_t kStreamTokens = 32;  // more are bound by arithmetic

// As generic_product; x is packed. Any number of tokens, 32 of them per reading of the weights.
void stream_linear(Context& context, const HeadLinearParams& params, bool accumulate);

// The same; many tokens of bf16 weights go to the library.
void packed_linear(Context& context, const HeadLinearParams& params, bool accumulate);

}  // namespace longshore::kernels::cuda
