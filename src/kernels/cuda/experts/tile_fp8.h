// The experts for many tokens of each on Hopper with activations rounded to FP8 (w8a8): e4m3 with a
// scale for each token and 128 columns, the largest magnitude / 448.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// What can_tile() takes, with these two. item: most tokens of an expert that share a reading of its
// weights, 32, 64 or 128.
[[nodiscard]] int64_t fp8_tile_experts_bytes(const ExpertsParams& params, int64_t tokens,
                                             int64_t item);
void fp8_tile_experts(Context& context, const ExpertsParams& params, int64_t item);

}  // namespace longshore::kernels::cuda
