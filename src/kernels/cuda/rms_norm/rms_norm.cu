#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kHeld = 16;  // elements of a row that a thread keeps: rows to 8192 are read once

// The sum over the block, in every thread.
__device__ float block_sum(float value) {
  __shared__ float parts[kThreads / kWarp];
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(threadIdx.x % kWarp < kThreads / kWarp ? parts[threadIdx.x % kWarp] : 0.0f);
}

// Grid: tokens.
__global__ void __launch_bounds__(kThreads) rms_norm_rows(RmsNormParams p) {
  begin_kernel();
  const int64_t t = blockIdx.x;
  const float* x = reinterpret_cast<const float*>(p.x.data) + t * p.x.stride;
  std::byte* y = p.y.data + t * p.y.stride * dtype_size(p.y.dtype);
  const int64_t n = p.x.cols;
  float held[kHeld];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = threadIdx.x + j * kThreads;
    held[j] = i < n ? x[i] : 0.0f;
    squares += held[j] * held[j];
  }
  for (int64_t i = threadIdx.x + kHeld * kThreads; i < n; i += kThreads) squares += x[i] * x[i];
  const float norm = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n) + p.eps);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = threadIdx.x + j * kThreads;
    if (i < n) store_activation(y, p.y.dtype, i, p.weight[i] * (held[j] * norm));
  }
  for (int64_t i = threadIdx.x + kHeld * kThreads; i < n; i += kThreads) {
    store_activation(y, p.y.dtype, i, p.weight[i] * (x[i] * norm));
  }
}

LS_LOAD_AT_START(rms_norm_rows);

}  // namespace

void rms_norm(Context& context, const RmsNormParams& p) {
  validate(p);
  if (p.x.rows == 0) return;
  launch_kernel(context, "rms_norm", rms_norm_rows, {static_cast<unsigned>(p.x.rows), kThreads}, p);
}

}  // namespace longshore::kernels::cuda
