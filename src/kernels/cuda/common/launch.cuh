// How kernels are launched, and how they begin: blocks of the next kernel may take their places
// before the last of this one's have ended, so that a launch costs no time of its own, and weights
// can be asked for meanwhile. CUDA programming guide, "Programmatic Dependent Launch"; of compute
// capability 9.0 and later, other devices run one kernel after the other.
//
// Right: every kernel awaits the end of the one before it before it reads or writes anything but
// weights, and that one has awaited its own. So all that was queued earlier has passed. Reads of
// what kernels write go through coherent loads: what a read-only load finds in the first cache may
// be older than the wait.
//
// Fast: who comes early finds a place where one is free. Behind a kernel that fills the device
// these are the places of its first blocks to end, all on few multiprocessors: blocks that come
// then are spread badly, and a kernel that has about one block for each place takes up to a fifth
// longer. So kernels of few blocks let the next one come at once, and large ones at their end.
#pragma once

#include <type_traits>

#include <cuda_runtime.h>

#include "device/cuda/context.h"

namespace longshore::kernels::cuda {

// Blocks of the next kernel may come once all blocks of this one have said so or ended.
__device__ __forceinline__ void allow_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// Until everything queued before this kernel has passed, and can be read.
__device__ __forceinline__ void await_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// The beginning of a kernel that calls await_earlier_kernels() itself, by every block that does
// not end there.
__device__ __forceinline__ void begin_early_kernel() {
  constexpr unsigned kFewBlocks = 132;  // one for each multiprocessor of an H100
  if (gridDim.x * gridDim.y * gridDim.z <= kFewBlocks) allow_next_kernel();
}

// The beginning of all others.
__device__ __forceinline__ void begin_kernel() {
  begin_early_kernel();
  await_earlier_kernels();
}

struct LaunchShape {
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes = 0;      // dynamic
  unsigned cluster_blocks = 1;  // in x
};

// Queues kernel(args...): one that begins as above. `what` names the operation, a literal; the
// context keeps the first fault.
template <typename... Params>
void launch_kernel(device::cuda::Context& context, const char* what, void (*kernel)(Params...),
                   const LaunchShape& shape, const std::type_identity_t<Params>&... args) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (context.launches_early()) {
    cudaLaunchAttribute& early = attributes[count++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster_blocks > 1) {
    cudaLaunchAttribute& cluster = attributes[count++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = shape.cluster_blocks;
    cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = context.stream();
  config.attrs = attributes;
  config.numAttrs = count;
  context.check(cudaLaunchKernelEx(&config, kernel, args...), what);
}

}  // namespace longshore::kernels::cuda
