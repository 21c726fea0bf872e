// device::Stamps on a CUDA device.
#pragma once

#include <cstdint>

#include "device/cuda/context.h"

namespace longshore::kernels::cuda {

using device::cuda::Context;

// to: in the device's memory.
void stamp(Context& context, uint64_t* to);

}  // namespace longshore::kernels::cuda
