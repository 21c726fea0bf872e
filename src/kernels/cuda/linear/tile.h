// FP8 linear layers of many tokens on Hopper, bound by arithmetic.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// FP8 in blocks of [multiples of 64, 128], rows of whole 128 bytes, on a device with wgmma.
[[nodiscard]] bool can_tile(const Context& context, const WeightView& w);

// The most blocks of threads that these tiles can make.
[[nodiscard]] int64_t tile_blocks(const LinearParams& params);

// y (+)= x w^T for as many tokens as there is scratch memory for.
void tile_linear(Context& context, const LinearParams& params);

}  // namespace longshore::kernels::cuda
