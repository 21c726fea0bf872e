// The experts for many tokens of each on Hopper: bound by arithmetic.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// All FP8 in blocks of [multiples of 64, 128], rows of whole 128 bytes, on a device with wgmma.
[[nodiscard]] bool can_tile(const Context& context, const ExpertsParams& params);
// Scratch memory for `tokens` tokens. item: most tokens of an expert that share a reading of its
// weights, 32, 64 or 128.
[[nodiscard]] int64_t tile_experts_bytes(const ExpertsParams& params, int64_t tokens, int64_t item);
void tile_experts(Context& context, const ExpertsParams& params, int64_t item);

}  // namespace longshore::kernels::cuda
