// How a device is opened for what a model is loaded with.
#pragma once

#include "kernels/backend.h"
#include "session/loaded_model.h"

namespace longshore::session {

// ordinal: CUDA's, of options.device. Scratch memory by the length of a chunk.
[[nodiscard]] kernels::CudaOptions cuda_options(const LoadOptions& options, int ordinal);

}  // namespace longshore::session
