// The experts for few tokens of each: bound by the reading of their weights.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// All FP8 in blocks of [multiples of 16, 128], or all bf16; rows of whole 128 bytes.
[[nodiscard]] bool can_stream(const ExpertsParams& params);
// Scratch memory for `tokens` tokens. item: tokens of an expert that share a reading of its
// weights, 8, 16 or 32.
[[nodiscard]] int64_t stream_experts_bytes(const ExpertsParams& params, int64_t tokens,
                                           int64_t item);
void stream_experts(Context& context, const ExpertsParams& params, int64_t item);

}  // namespace longshore::kernels::cuda
