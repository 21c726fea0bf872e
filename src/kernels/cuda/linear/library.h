// bf16 linear layers of many tokens through cuBLASLt.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// As generic_product; x is packed, w is bf16. False: the library has no algorithm for these shapes
// and alignments, and nothing was done.
[[nodiscard]] bool library_linear(Context& context, const HeadLinearParams& params,
                                  bool accumulate);

}  // namespace longshore::kernels::cuda
