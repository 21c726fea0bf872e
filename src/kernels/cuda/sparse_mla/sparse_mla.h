// The forms of sparse_mla. Arguments have been validated.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// All in fp32, any shape: small models, and outputs in fp32.
void sparse_mla_any(Context& context, const SparseMlaParams& p);

// Tensor cores: compute capability 9.0, latents of 512 + 64, bf16 queries and outputs.
[[nodiscard]] bool takes_sparse_mla_hopper(const Context& context, const SparseMlaParams& p);
void sparse_mla_hopper(Context& context, const SparseMlaParams& p);

}  // namespace longshore::kernels::cuda
