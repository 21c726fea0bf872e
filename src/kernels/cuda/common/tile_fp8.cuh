// The compute-bound product of FP8 weights and FP8 tokens on Hopper (w8a8): as common/tile.cuh, but
// both operands go to the tensor cores as they are. A token has a scale for each 128 columns.
//
// The tensor cores keep few bits of sums of e4m3: after each 128 columns they are added, scaled, to
// sums in registers.
#pragma once

#include "kernels/cuda/common/tile.cuh"

namespace longshore::kernels::cuda {

template <int kTokens>
struct Fp8TileMemory {
  static constexpr int kStages = kTokens > 64 ? 4 : 5;
  struct Stage {
    std::byte weights[kTileRows * kTileColumns];  // [256, 128] swizzled
    std::byte tokens[kTokens * kTileColumns];     // [kTokens, 128] swizzled
    float scales[256];                            // [kTokens]; a whole 1024 bytes
  };
  Stage stages[kStages];
  const std::byte* weight_rows[kTileRows];
  const std::byte* token_rows[kTokens];  // null: zeros
  const float* token_scales[kTokens];    // [blocks] each, also where there is no token
  float scales[4][kMostTileBlocks];      // of the four groups of 64 rows
  Barrier full[kStages];
  Barrier empty[kStages];

  __device__ void init() {
    if (threadIdx.x != 0) return;
    for (int stage = 0; stage < kStages; ++stage) {
      full[stage].init(kTileProducers);
      empty[stage].init(kTileConsumers);
    }
  }
};

// given: [blocks] of rows 64 * group of this run.
template <int kTokens>
__device__ __forceinline__ void put_scales(Fp8TileMemory<kTokens>& memory, int group, int run,
                                           const float* given, int blocks) {
  for (int b = threadIdx.x; b < blocks; b += kTileThreads) {
    memory.scales[group][run * blocks + b] = given[b];
  }
}

// By one of the producers.
template <int kTokens>
__device__ __forceinline__ void load_stage(Fp8TileMemory<kTokens>& memory, const TileRuns& runs,
                                           int step) {
  constexpr int kBatch = 4;  // addresses read together
  constexpr int kRows = kTileProducers / 8;
  const int thread = threadIdx.x - kTileConsumers;
  const int chunk = thread % 8;
  auto& stage = memory.stages[step % Fp8TileMemory<kTokens>::kStages];
  const int block = step % runs.blocks;
  const int64_t column = block * kTileColumns + chunk * 16;
  const int64_t weight_column = step / runs.blocks * runs.weight_bytes + column;
  const uint32_t weights = shared_address(stage.weights);
#pragma unroll
  for (int q = 0; q < kTileRows / kRows; q += kBatch) {
    const std::byte* from[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) from[i] = memory.weight_rows[thread / 8 + (q + i) * kRows];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = thread / 8 + (q + i) * kRows;
      copy_async(weights + row * kTileColumns + (chunk ^ row % 8) * 16, from[i] + weight_column);
    }
  }
  const uint32_t tokens = shared_address(stage.tokens);
#pragma unroll
  for (int q = 0; q < kTokens / kRows; ++q) {
    const int row = thread / 8 + q * kRows;
    const std::byte* from = memory.token_rows[row];
    copy_async(tokens + row * kTileColumns + (chunk ^ row % 8) * 16,
               from == nullptr ? nullptr : from + column, memory.weight_rows[0]);
  }
  if (thread < kTokens) {
    copy_async_4(shared_address(stage.scales + thread), memory.token_scales[thread] + block);
  }
}

#ifdef LS_WGMMA

// The consumers' part, as for w8a16.
template <int kTokens, typename Finish>
__device__ __forceinline__ void consume(Fp8TileMemory<kTokens>& memory, const TileRuns& runs,
                                        const Finish& finish) {
  constexpr int kStages = Fp8TileMemory<kTokens>::kStages;
  const int group = threadIdx.x / (4 * kWarp);
  float sums[2][kTokens / 2];
  float part[kTokens / 2];
  int step = 0;
  for (int run = 0; run < runs.runs; ++run) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sums[0][i] = sums[1][i] = 0;
    for (int block = 0; block < runs.blocks; ++block, ++step) {
      const auto& stage = memory.stages[step % kStages];
      memory.full[step % kStages].wait(step / kStages & 1);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t rows =
            shared_address(stage.weights) + (half * kTileHalf + group * 64) * kTileColumns;
        const uint32_t tokens = shared_address(stage.tokens);
        hold(part);
        wgmma_begin();
        wgmma_e4m3<false>(part, swizzled_rows(rows), swizzled_rows(tokens));
#pragma unroll
        for (int k = 1; k < 4; ++k) {
          wgmma_e4m3<true>(part, swizzled_rows(rows + k * 32), swizzled_rows(tokens + k * 32));
        }
        wgmma_commit();
        wgmma_wait<0>();
        hold(part);
        const float scale = memory.scales[half * 2 + group][step];
#pragma unroll
        for (int i = 0; i < kTokens / 2; i += 4) {
          const float2 pair = *reinterpret_cast<const float2*>(stage.scales + tile_token(i));
          const float even = pair.x * scale;
          const float odd = pair.y * scale;
          sums[half][i] = fmaf(part[i], even, sums[half][i]);
          sums[half][i + 1] = fmaf(part[i + 1], odd, sums[half][i + 1]);
          sums[half][i + 2] = fmaf(part[i + 2], even, sums[half][i + 2]);
          sums[half][i + 3] = fmaf(part[i + 3], odd, sums[half][i + 3]);
        }
      }
      memory.empty[step % kStages].arrive();
    }
    finish(run, sums);
  }
}

#endif  // LS_WGMMA

}  // namespace longshore::kernels::cuda
