// The kernel of index_gather. A header, so that a bench can set a variant with a fixed page-table
// width beside it.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/ops_attention.h"

namespace longshore::kernels::cuda {

constexpr int kGatherThreads = 256;
constexpr int kGatherBlocksPerMultiprocessor = 3;
constexpr int kItemTokens = 32;  // what a warp copies at a time: small enough to spread evenly
constexpr int kKeyBytes = 128;
constexpr int kGatherPageBytes = kPageTokens * (kKeyBytes + 4);

// Running sums over the sequences, in shared memory: [B + 1] tokens, then [B + 1] items. Each
// thread adds up a few neighbouring sequences, so that all lengths are read at once.
__device__ __forceinline__ void sum_lengths(const IndexGatherParams& p, int32_t* tokens,
                                            int32_t* items) {
  constexpr int kWarps = kGatherThreads / kWarp;
  __shared__ int32_t warp_tokens[kWarps];
  __shared__ int32_t warp_items[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const auto count = static_cast<int32_t>(p.sequences);
  const int32_t each = (count + kGatherThreads - 1) / kGatherThreads;
  const int32_t first = min(static_cast<int32_t>(threadIdx.x) * each, count);
  const int32_t last = min(first + each, count);
  int32_t own_tokens = 0;
  int32_t own_items = 0;
  for (int32_t b = first; b < last; ++b) {
    const int32_t length = p.seq_lens[b];
    own_tokens += length;
    own_items += (length + kItemTokens - 1) / kItemTokens;
  }
  int32_t token_sum = own_tokens;
  int32_t item_sum = own_items;
  for (int width = 1; width < kWarp; width *= 2) {
    const int32_t other_tokens = __shfl_up_sync(kWholeWarp, token_sum, width);
    const int32_t other_items = __shfl_up_sync(kWholeWarp, item_sum, width);
    if (lane >= width) {
      token_sum += other_tokens;
      item_sum += other_items;
    }
  }
  if (lane == kWarp - 1) {
    warp_tokens[warp] = token_sum;
    warp_items[warp] = item_sum;
  }
  __syncthreads();
  token_sum -= own_tokens;
  item_sum -= own_items;
  for (int w = 0; w < warp; ++w) {
    token_sum += warp_tokens[w];
    item_sum += warp_items[w];
  }
  for (int32_t b = first; b < last; ++b) {
    const int32_t length = p.seq_lens[b];
    token_sum += length;
    item_sum += (length + kItemTokens - 1) / kItemTokens;
    tokens[b + 1] = token_sum;
    items[b + 1] = item_sum;
  }
  if (threadIdx.x == 0) tokens[0] = items[0] = 0;
  __syncthreads();
}

// One warp copies `count` <= kItemTokens keys and scales: all loads, then all stores.
__device__ __forceinline__ void copy_keys(const std::byte* from_keys, const float* from_scales,
                                          int count, std::byte* keys, float* scales, int lane) {
  constexpr int kLoads = kItemTokens * kKeyBytes / 16 / kWarp;
  static_assert(kItemTokens == kWarp && kPageTokens % kItemTokens == 0);
  const auto* from = reinterpret_cast<const uint4*>(from_keys);
  auto* to = reinterpret_cast<uint4*>(keys);
  const int pieces = count * (kKeyBytes / 16);
  uint4 chunks[kLoads];
  float scale = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (i * kWarp + lane < pieces) chunks[i] = __ldcs(from + i * kWarp + lane);
  }
  if (lane < count) scale = __ldcs(from_scales + lane);
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (i * kWarp + lane < pieces) __stcs(to + i * kWarp + lane, chunks[i]);
  }
  if (lane < count) __stcs(scales + lane, scale);
}

// The grid covers all sequences' items, whatever the batch. kWidth: the page table's
// width, 0 for a run-time value.
template <int kWidth>
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocksPerMultiprocessor)
    index_gather_kernel(IndexGatherParams p) {
  begin_kernel();
  extern __shared__ int32_t sums[];
  int32_t* tokens = sums;
  int32_t* items = sums + p.sequences + 1;
  sum_lengths(p, tokens, items);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int32_t warps = static_cast<int32_t>(gridDim.x) * (kGatherThreads / kWarp);
  const int32_t total = items[p.sequences];
  const int64_t width = kWidth > 0 ? kWidth : p.page_table_width;
  for (int32_t item = static_cast<int32_t>(blockIdx.x * kGatherThreads + threadIdx.x) / kWarp;
       item < total; item += warps) {
    int32_t b = 0;  // the last sequence whose items start at or before the item
    for (int32_t after = static_cast<int32_t>(p.sequences); after - b > 1;) {
      const int32_t middle = (b + after) / 2;
      if (items[middle] <= item) {
        b = middle;
      } else {
        after = middle;
      }
    }
    const int32_t first = (item - items[b]) * kItemTokens;
    const std::byte* page =
        p.cache.data + int64_t{p.page_table[b * width + first / kPageTokens]} * kGatherPageBytes;
    const int slot = first % kPageTokens;
    const int64_t to = tokens[b] + first;
    copy_keys(page + slot * kKeyBytes,
              reinterpret_cast<const float*>(page + kPageTokens * kKeyBytes) + slot,
              min(tokens[b + 1] - tokens[b] - first, kItemTokens), p.keys + to * kKeyBytes,
              p.scales + to, lane);
  }
}

}  // namespace longshore::kernels::cuda
