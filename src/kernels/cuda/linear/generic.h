// A product for every dtype, size, stride and block shape: what the fast ones do not take.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// heads products: y[t, h * y_head_stride + o] (+)= w[h * out + o] . x[t, h * x_head_stride ..], out
// = w.out / heads. A linear layer has one head.
void generic_product(Context& context, const HeadLinearParams& params, bool accumulate);

}  // namespace longshore::kernels::cuda
