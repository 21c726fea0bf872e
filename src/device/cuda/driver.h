// Functions of the CUDA driver, which is not linked: without one the program runs on the CPU.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

namespace longshore::device::cuda {

// nullptr: the driver has no such function. since: the version whose form of it is meant.
template <typename Function>
[[nodiscard]] Function driver_function(const char* name, unsigned since = 12000) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &found, since, cudaEnableDefault, &result);
  return status == cudaSuccess && result == cudaDriverEntryPointSuccess
             ? reinterpret_cast<Function>(found)
             : nullptr;
}

}  // namespace longshore::device::cuda
