// The compute-bound product of FP8 weights and bf16 tokens on Hopper (w8a16): 256 rows of weights
// by kTokens tokens per block of threads.
//
// Weights arrive in shared memory as they are and are decoded into registers, exactly, on their way
// to the tensor cores; tokens are read by the tensor cores from shared memory. The scale of a
// weight's block multiplies sums, not weights: before block b the sums are rescaled by scale[b - 1]
// / scale[b], and the last scale multiplies the result.
//
// The operands are fp16, into which one instruction decodes two codes. A token in bf16 becomes fp16
// without loss when a power of two of its own brings its largest element to 2^14 (fit_exponent):
// elements down to 2^-28 of the largest are exact, and what smaller ones lose is below the rounding
// of the sums.
//
// A lane decodes 16 consecutive bytes of a row, so each product's 16 columns are not consecutive;
// tokens are stored in that order of columns (tile_column).
#pragma once

#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/common/wgmma.cuh"

namespace longshore::kernels::cuda {

constexpr int kTileRows = 256;  // two halves of 128: the tiles of two warpgroups each
constexpr int kTileHalf = 128;
constexpr int kTileColumns = 128;    // of one step: one scale
constexpr int kTileConsumers = 256;  // two warpgroups multiply, a third loads for them
constexpr int kTileProducers = 128;
constexpr int kTileThreads = kTileConsumers + kTileProducers;

// Where column i of a token is stored.
__host__ __device__ constexpr int64_t tile_column(int64_t i) {
  const int64_t lane = i >> 4 & 3;
  const int64_t step = i >> 2 & 3;
  const int64_t half = i >> 1 & 1;
  return (i & ~int64_t{63}) + step * 16 + half * 8 + lane * 2 + (i & 1);
}

// The n for which x * 2^n, |x| <= largest, fits fp16. Of zero, infinity and NaN: 0.
__device__ __forceinline__ int fit_exponent(float largest) {
  if (!(largest > 0) || isinf(largest)) return 0;
  return min(14 - ilogbf(largest), 120);  // so that 2^-n is a float
}

constexpr int kMostTileBlocks = 192;  // of kTileColumns, of all runs: rows to 24576
constexpr int kMostTileRuns = 12;

template <int kTokens>
struct TileMemory {
  static constexpr int kStages = kTokens > 64 ? 3 : kTokens > 32 ? 4 : 5;
  struct Stage {
    std::byte weights[kTileRows * kTileColumns];  // [256, 128], chunks swapped in odd rows
    std::byte tokens[2][kTokens * kTileColumns];  // [2][kTokens, 64] fp16, swizzled
  };
  Stage stages[kStages];
  const std::byte* weight_rows[kTileRows];
  const std::byte* token_rows[kTokens];  // null: zeros
  float factors[kTokens];                // of TileTokens
  // Of the four groups of 64 rows: what brings sums to the scale of each block, and the last scale
  // of each run.
  float ratios[4][kMostTileBlocks];
  float last_scale[4][kMostTileRuns];
  Barrier full[kStages];   // a phase for every filling
  Barrier empty[kStages];  // a phase for every use

  // By all threads, before a barrier of all.
  __device__ void init() {
    if (threadIdx.x != 0) return;
    for (int stage = 0; stage < kStages; ++stage) {
      full[stage].init(kTileProducers);
      empty[stage].init(kTileConsumers);
    }
  }
};

// What a block of threads multiplies: the same tokens by `runs` times 256 rows, one run after the
// other, so that the second's weights are under way while the first's results are stored.
struct TileRuns {
  int blocks;            // of kTileColumns, of a row
  int runs;              // runs * blocks <= kMostTileBlocks
  int64_t weight_bytes;  // from a run's rows to the next one's
};

// scales: [blocks] of rows 64 * group of this run.
template <int kTokens>
__device__ __forceinline__ void put_scales(TileMemory<kTokens>& memory, int group, int run,
                                           const float* scales, int blocks) {
  constexpr float kNoScale = 1e-30f;  // in place of 0, by which sums cannot be divided
  const auto scale = [&](int block) { return scales[block] == 0 ? kNoScale : scales[block]; };
  for (int b = threadIdx.x; b < blocks; b += kTileThreads) {
    memory.ratios[group][run * blocks + b] = b == 0 ? 0.0f : scale(b - 1) / scale(b);
    if (b == blocks - 1) memory.last_scale[group][run] = scale(b);
  }
}

// By one of the producers.
template <int kTokens>
__device__ __forceinline__ void load_stage(TileMemory<kTokens>& memory, const TileRuns& runs,
                                           int step) {
  constexpr int kBatch = 4;  // addresses read together
  const int thread = threadIdx.x - kTileConsumers;
  auto& stage = memory.stages[step % TileMemory<kTokens>::kStages];
  const int block = step % runs.blocks;
  constexpr int kWeightRows = kTileProducers / 8;
  const int weight_chunk = thread % 8;
  const int64_t weight_column =
      step / runs.blocks * runs.weight_bytes + block * kTileColumns + weight_chunk * 16;
  const uint32_t weights = shared_address(stage.weights);
#pragma unroll
  for (int q = 0; q < kTileRows / kWeightRows; q += kBatch) {
    const std::byte* from[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      from[i] = memory.weight_rows[thread / 8 + (q + i) * kWeightRows];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = thread / 8 + (q + i) * kWeightRows;
      const int place = weight_chunk ^ (row % 2 * 4);
      copy_async(weights + row * kTileColumns + place * 16, from[i] + weight_column);
    }
  }
  constexpr int kTokenRows = kTileProducers / 16;
  const int token_chunk = thread % 16;
  const int64_t token_column = static_cast<int64_t>(block) * kTileColumns * 2 + token_chunk * 16;
  const uint32_t tokens = shared_address(stage.tokens) + token_chunk / 8 * (kTokens * kTileColumns);
#pragma unroll
  for (int q = 0; q < kTokens / kTokenRows; q += kBatch) {
    const std::byte* from[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      from[i] = memory.token_rows[thread / 16 + (q + i) * kTokenRows];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = thread / 16 + (q + i) * kTokenRows;
      const int place = token_chunk % 8 ^ row % 8;
      copy_async(tokens + row * kTileColumns + place * 16,
                 from[i] == nullptr ? nullptr : from[i] + token_column, memory.weight_rows[0]);
    }
  }
}

// Where value i of this thread's sums lies.
__device__ __forceinline__ int tile_row(int i) {
  return threadIdx.x / kWarp * 16 + threadIdx.x % kWarp / 4 + i % 4 / 2 * 8;  // in a half
}
__device__ __forceinline__ int tile_token(int i) {
  return i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
}

#ifdef LS_WGMMA

// The operands of 64 rows and 128 columns: [step][register].
__device__ __forceinline__ void decode_rows(const std::byte* rows, uint32_t (&a)[8][4]) {
  const int lane = threadIdx.x % kWarp;
  const int row = threadIdx.x / kWarp % 4 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = (lane % 4 + half * 4) ^ (row % 2 * 4);
    const std::byte* at = rows + row * kTileColumns + place * 16;
    const uint4 low = *reinterpret_cast<const uint4*>(at);
    const uint4 high = *reinterpret_cast<const uint4*>(at + 8 * kTileColumns);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t(&to)[4] = a[half * 4 + step];
      to[0] = decode_e4m3x2_f16(word(low, step));
      to[1] = decode_e4m3x2_f16(word(high, step));
      to[2] = decode_e4m3x2_f16(word(low, step) >> 16);
      to[3] = decode_e4m3x2_f16(word(high, step) >> 16);
    }
  }
}

// sums += rows tokens^T, after `ratio` has brought them to this block's scale.
template <int kTokens>
__device__ __forceinline__ void start_product(const typename TileMemory<kTokens>::Stage& stage,
                                              uint32_t (&operands)[8][4], float ratio,
                                              float (&sums)[kTokens / 2]) {
  hold(sums);
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) sums[i] *= ratio;
  hold(sums);
  settle(operands);
  wgmma_begin();
#pragma unroll
  for (int step = 0; step < 8; ++step) {
    const uint32_t tokens = shared_address(stage.tokens[step / 4]) + step % 4 * 32;
    wgmma_f16(sums, operands[step], swizzled_rows(tokens));
  }
  wgmma_commit();
}

// The producers' part: fills stages as they become empty.
template <typename Memory>
__device__ __forceinline__ void produce(Memory& memory, const TileRuns& runs) {
  constexpr int kStages = Memory::kStages;
  constexpr int kLag = kStages - 2;  // stages on their way when the next is begun
  const int steps = runs.blocks * runs.runs;
  const auto hand_over = [&](int step) {
    publish_shared();
    memory.full[step % kStages].arrive();
  };
  for (int step = 0; step < steps; ++step) {
    if (step >= kStages) memory.empty[step % kStages].wait((step / kStages - 1) & 1);
    load_stage(memory, runs, step);
    copy_commit();
    if (step < kLag) continue;
    copy_wait<kLag>();
    hand_over(step - kLag);
  }
  copy_wait<0>();
  for (int step = max(0, steps - kLag); step < steps; ++step) hand_over(step);
}

// The consumers' part: finish(run, sums) is called with sums[half] [64, kTokens], of rows 128 *
// half
// + 64 * warpgroup, when this thread's warpgroup has them; the other may not yet.
template <int kTokens, typename Finish>
__device__ __forceinline__ void consume(TileMemory<kTokens>& memory, const TileRuns& runs,
                                        const Finish& finish) {
  constexpr int kStages = TileMemory<kTokens>::kStages;
  const int group = threadIdx.x / (4 * kWarp);
  const int steps = runs.blocks * runs.runs;
  float sums[2][kTokens / 2];
  uint32_t operands[2][8][4];
  const auto rows = [&](int step, int half) {
    return memory.stages[step % kStages].weights + (half * kTileHalf + group * 64) * kTileColumns;
  };
  const auto arrive = [&](int step) {
    memory.full[step % kStages].wait(step / kStages & 1);
    decode_rows(rows(step, 0), operands[0]);
  };
  arrive(0);
  int step = 0;
  for (int run = 0; run < runs.runs; ++run) {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sums[0][i] = sums[1][i] = 0;
    // Operands are decoded while the other half's product runs. No product runs across the loop's
    // edge: the compiler would serialise them all.
    for (int block = 0; block < runs.blocks; ++block, ++step) {
      const auto& stage = memory.stages[step % kStages];
      start_product<kTokens>(stage, operands[0], memory.ratios[group][step], sums[0]);
      decode_rows(rows(step, 1), operands[1]);
      wgmma_wait<0>();
      start_product<kTokens>(stage, operands[1], memory.ratios[2 + group][step], sums[1]);
      if (step + 1 < steps) arrive(step + 1);
      wgmma_wait<0>();
      memory.empty[step % kStages].arrive();
    }
    hold(sums[0]);
    hold(sums[1]);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      sums[0][i] *= memory.last_scale[group][run];
      sums[1][i] *= memory.last_scale[2 + group][run];
    }
    finish(run, sums);
  }
}

// A barrier of the consumers.
__device__ __forceinline__ void consumer_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(kTileConsumers) : "memory");
}

// memory but for its stages is filled in, before a barrier of all threads.
template <typename Memory, typename Finish>
__device__ __forceinline__ void tile_product(Memory& memory, const TileRuns& runs,
                                             const Finish& finish) {
  // 128 * 56 + 256 * 224 registers are what 384 threads started with.
  if (threadIdx.x >= kTileConsumers) {
    give_registers<56>();
    produce(memory, runs);
  } else {
    take_registers<224>();
    consume(memory, runs, finish);
  }
}

#endif  // LS_WGMMA

}  // namespace longshore::kernels::cuda
