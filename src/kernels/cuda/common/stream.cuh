// The memory-bound product: weights stream from device memory straight into registers, once, while
// up to 32 tokens wait in the first cache. A warp sums 16 rows over its share of the columns.
#pragma once

#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/mma.cuh"

namespace longshore::kernels::cuda {

constexpr int kStreamBytes = 128;  // of a row in one block of columns: one scale of FP8

// Of the weight matrix: 128 FP8 columns or 64 bf16.
template <typename Weight>
constexpr int kStreamColumns = kStreamBytes / 16 * Weight::kColumns;

// What a warp multiplies: lane 4g + i reads rows g and g + 8.
struct StreamRows {
  const std::byte* low;   // row g
  const std::byte* high;  // row g + 8
  const float* scales;    // [blocks], or null
};

// sums [tiles, 16 rows, 8 tokens] += weight tokens^T over blocks part, part + parts, .. of
// `blocks`. x[tile]: the columns of token 8 * tile + g, or null: zeros. kWeightsFirst: earlier
// kernels, of which the tokens come, are awaited here, behind the first loads of weights.
template <typename Weight, int kTiles, int kParts, int kAhead = 2, bool kWeightsFirst = false>
__device__ __forceinline__ void stream_product(const StreamRows& rows, int blocks, int part,
                                               const __nv_bfloat16* const (&x)[kTiles],
                                               float (&sums)[kTiles][4]) {
  constexpr int kChunks = 2;  // 64 bytes of a row each, 16 per lane
  constexpr int kInputs = Weight::kColumns / 8;
  const int lane_byte = threadIdx.x % 4 * 16;
  const int lane_column = threadIdx.x % 4 * Weight::kColumns;
  if (kWeightsFirst && part >= blocks) await_earlier_kernels();
  for (int first = part; first < blocks; first += kAhead * kParts) {
    uint4 low[kAhead][kChunks];
    uint4 high[kAhead][kChunks];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (first + a * kParts >= blocks) break;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int64_t at =
            static_cast<int64_t>(first + a * kParts) * kStreamBytes + c * 64 + lane_byte;
        low[a][c] = load_streamed(rows.low + at);
        high[a][c] = load_streamed(rows.high + at);
      }
    }
    if (kWeightsFirst && first == part) await_earlier_kernels();
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int block = first + a * kParts;
      if (block >= blocks) break;
      const float scale = rows.scales == nullptr ? 1.0f : __ldg(rows.scales + block);
      float block_sums[kTiles][4] = {};
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int column = block * kStreamColumns<Weight> + c * 4 * Weight::kColumns + lane_column;
        uint4 inputs[kTiles][kInputs];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int i = 0; i < kInputs; ++i) {
            inputs[tile][i] =
                x[tile] == nullptr ? uint4{} : reinterpret_cast<const uint4*>(x[tile] + column)[i];
          }
        }
#pragma unroll
        for (int step = 0; step < Weight::kSteps; ++step) {
          uint32_t operand[4];
          Weight::operand(low[a][c], high[a][c], step, operand);
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const uint4& in = inputs[tile][step / 2];
            mma_bf16(block_sums[tile], operand, word(in, step % 2 * 2), word(in, step % 2 * 2 + 1));
          }
        }
      }
      // The tensor cores truncate their sums: no run of theirs is longer than a block.
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][i] = fmaf(scale, block_sums[tile][i], sums[tile][i]);
      }
    }
  }
}

// A block's partial sums, [parts][row groups][tokens][16 rows].
template <int kTiles, int kGroups, int kParts>
struct StreamSums {
  static constexpr int kTokens = kTiles * kMmaTokens;
  static constexpr int kPitch = kMmaRows + 1;
  float sums[kParts][kGroups][kTokens][kPitch];

  __device__ void put(int part, int group, const float (&own)[kTiles][4]) {
    const int g = threadIdx.x % kWarp / 4;
    const int token = threadIdx.x % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[part][group][tile * kMmaTokens + token + i % 2][g + i / 2 * 8] = own[tile][i];
      }
    }
  }
  __device__ float total(int group, int token, int row) const {
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) sum += sums[part][group][token][row];
    return sum;
  }
};

}  // namespace longshore::kernels::cuda
