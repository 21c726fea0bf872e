// What the kernels of latent attention and of its indexer share: places in the
// paged caches, rope and the Hadamard rotation of one row by one warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/elements.cuh"
#include "kernels/paged.h"

namespace longshore::kernels::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float warp_max(float value) {
  for (int width = kWarp / 2; width > 0; width /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, width));
  }
  return value;
}

__device__ __forceinline__ int32_t page_of(const BatchView& batch, int64_t sequence,
                                           int32_t position) {
  return batch.page_table[sequence * batch.page_table_width + position / kPageTokens];
}

// A token of the latent cache.
template <bool kFp8>
__device__ __forceinline__ std::byte* latent_of(const LatentCacheView& cache, int64_t page,
                                                int32_t position) {
  constexpr DType kDtype = kFp8 ? DType::kF8E4M3 : DType::kBF16;
  return cache.data + (page * kPageTokens + position % kPageTokens) *
                          LatentCacheView::token_bytes(kDtype, cache.kv_lora, cache.rope_dim);
}

// Rotates the pairs of row [rope_dim], in shared memory and written by this warp, in place. One
// warp; its writes are visible to the warp afterwards.
__device__ __forceinline__ void rope_row(float* row, int64_t rope_dim, int32_t position,
                                         const float* inv_freq, int lane) {
  __syncwarp();
  for (int64_t i = lane; i < rope_dim / 2; i += kWarp) {
    float sine;
    float cosine;
    sincosf(static_cast<float>(position) * inv_freq[i], &sine, &cosine);
    const float even = row[2 * i];
    const float odd = row[2 * i + 1];
    row[2 * i] = even * cosine - odd * sine;
    row[2 * i + 1] = odd * cosine + even * sine;
  }
  __syncwarp();
}

// kernels/format/hadamard.h, one warp on row [n] in shared memory.
__device__ __forceinline__ void hadamard_row(float* row, int n, int lane) {
  while (n > 0) {
    const int block = 1 << (31 - __clz(n));
    for (int half = 1; half < block; half *= 2) {
      for (int pair = lane; pair < block / 2; pair += kWarp) {
        const int i = pair / half * 2 * half + pair % half;
        const float a = row[i];
        const float b = row[i + half];
        row[i] = a + b;
        row[i + half] = a - b;
      }
      __syncwarp();
    }
    const float norm = 1.0f / sqrtf(static_cast<float>(block));
    for (int i = lane; i < block; i += kWarp) row[i] *= norm;
    __syncwarp();
    row += block;
    n -= block;
  }
}

// A row of 128 in the registers of one warp: lane l holds columns 4 l to 4 l + 3. The same
// arithmetic as rope_row and hadamard_row.
struct Row128 {
  float x[4];

  __device__ __forceinline__ void load(const float* row, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = row[4 * lane + i];
  }
  __device__ __forceinline__ float sum() const {
    return warp_sum((x[0] + x[1]) + (x[2] + x[3]));
  }
  __device__ __forceinline__ float highest_magnitude() const {
    return warp_max(fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3]))));
  }
  __device__ __forceinline__ void rope(int64_t rope_dim, int32_t position, const float* inv_freq,
                                       int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pair = 2 * lane + i;
      if (2 * pair >= rope_dim) continue;
      float sine;
      float cosine;
      sincosf(static_cast<float>(position) * inv_freq[pair], &sine, &cosine);
      const float even = x[2 * i];
      const float odd = x[2 * i + 1];
      x[2 * i] = even * cosine - odd * sine;
      x[2 * i + 1] = odd * cosine + even * sine;
    }
  }
  __device__ __forceinline__ void hadamard(int lane) {
    const float a[4] = {x[0] + x[1], x[0] - x[1], x[2] + x[3], x[2] - x[3]};
    x[0] = a[0] + a[2];
    x[1] = a[1] + a[3];
    x[2] = a[0] - a[2];
    x[3] = a[1] - a[3];
#pragma unroll
    for (int lanes = 1; lanes < kWarp; lanes *= 2) {
#pragma unroll
      for (float& value : x) {
        const float other = __shfl_xor_sync(kWholeWarp, value, lanes);
        value = (lane & lanes) == 0 ? value + other : other - value;
      }
    }
    const float norm = 1.0f / sqrtf(128.0f);
#pragma unroll
    for (float& value : x) value *= norm;
  }
};

}  // namespace longshore::kernels::cuda
