// Elements of activations and weights in device code, whatever their type.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/tensor.h"
#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"

namespace longshore::kernels::cuda {

constexpr int kWarp = 32;

[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

[[nodiscard]] inline bool aligned(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0;
}

// x [.., i] of fp32 or bf16.
__device__ __forceinline__ float load_activation(const std::byte* row, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(row)[i];
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[i]);
}

__device__ __forceinline__ void store_activation(std::byte* row, DType dtype, int64_t i,
                                                 float value) {
  if (dtype == DType::kF32) {
    reinterpret_cast<float*>(row)[i] = value;
  } else {
    reinterpret_cast<__nv_bfloat16*>(row)[i] = __float2bfloat16_rn(value);
  }
}

__device__ __forceinline__ float round_to_bf16(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

// w[o, i], scaled.
__device__ __forceinline__ float load_weight(const WeightView& w, int64_t o, int64_t i) {
  const int64_t at = o * w.in + i;
  switch (w.dtype) {
    case DType::kF32:
      return reinterpret_cast<const float*>(w.data)[at];
    case DType::kBF16:
      return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(w.data)[at]);
    case DType::kF16:
      return __half2float(reinterpret_cast<const __half*>(w.data)[at]);
    default:
      return e4m3_decode(reinterpret_cast<const uint8_t*>(w.data)[at]) *
             w.scale[o / w.block_rows * w.scale_stride + i / w.block_cols];
  }
}

__device__ __forceinline__ float silu(float x) {
  return x / (1.0f + expf(-x));
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}

}  // namespace longshore::kernels::cuda
