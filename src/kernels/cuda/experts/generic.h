// The experts for every dtype, size and block shape: what the fast kernels do not take.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

void generic_experts(Context& context, const ExpertsParams& params);

}  // namespace longshore::kernels::cuda
