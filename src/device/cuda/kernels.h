// The library's kernels are loaded when a device is opened. CUDA otherwise loads each when it is
// first launched: then a request waits, device memory is taken while serving, and a load may wait
// for a device that itself waits for the host.
//
// Every file with kernels names one of them, by LS_LOAD_AT_START(kernel) at its end; all kernels of
// that file are loaded with it (tests/lint asks for the line).
#pragma once

#include <cstdint>

#include "base/error.h"

namespace longshore::device::cuda {

// While the program starts. Returns true.
bool load_at_start(const void* kernel);

// All kernels of the files that named one, on the current device. kDevice.
[[nodiscard]] Result<void> load_kernels();

// Those kernels, and how many are loaded on the current device. kDevice.
struct KernelCount {
  int64_t all = 0;
  int64_t loaded = 0;
};
[[nodiscard]] Result<KernelCount> count_kernels();

}  // namespace longshore::device::cuda

// kernel: a __global__ function; of a template, any of its instances.
#define LS_LOAD_AT_START(...)                  \
  [[maybe_unused]] const bool kLoadedAtStart = \
      ::longshore::device::cuda::load_at_start(reinterpret_cast<const void*>(__VA_ARGS__))
