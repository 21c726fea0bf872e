// What a block of sparse_mla on Hopper computes from latents in shared memory: hopper.cu has the
// order of things, latents.cuh brings the latents.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/warpgroup.cuh"
#include "kernels/cuda/sparse_mla/sparse_mla.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kLora = 512;
constexpr int kRope = 64;
constexpr int kWidth = kLora + kRope;
constexpr int kHeads = 64;   // of a block
constexpr int kTile = 64;    // positions
constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kThreads = 2 * kGroup;
constexpr int kColumns = kWidth / 64;   // blocks of 64 columns: 128-byte rows
constexpr int kColumnBytes = 64 * 128;  // of 64 rows
constexpr int kTileBytes = kColumns * kColumnBytes;
constexpr int kStages = 2;
[[maybe_unused]] constexpr int kOwnColumns = kLora / 2;  // of a warpgroup's output
constexpr int kSharedBytes = (1 + kStages) * kTileBytes + kColumnBytes + 4 * kHeads * 4;

struct Split {
  SparseMlaParams p;
  int64_t head_blocks;
  int64_t splits;        // of a token's positions
  int64_t split_tiles;   // tiles of a split
  float* partial;        // [T, head_blocks, splits, 64, 512] fp32, where splits > 1
  float2* state;         // [T, head_blocks, splits, 64] highest logit (base 2), sum
  bool queries_aligned;  // 16 bytes, every head
  bool output_aligned;   // 4 bytes
};

#ifdef LS_HAS_WGMMA

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// The 16-byte pieces that this thread moves: piece threadIdx % 8 of each column block, in rows
// threadIdx / 8 and 32 further.
struct Mover {
  static constexpr int kRows = 2;
  int row;
  int piece;
  __device__ Mover() : row(static_cast<int>(threadIdx.x) / 8), piece(threadIdx.x % 8) {}
};

// Starts the copy of the queries of 64 heads, c | rope; zeros past the last head.
__device__ void load_queries(const Split& split, std::byte* shared, int64_t t, int64_t first_head) {
  const SparseMlaParams& p = split.p;
  const Mover mover;
  const auto* c = reinterpret_cast<const uint16_t*>(p.q_c.data) + t * p.q_c.stride;
  const auto* rope = reinterpret_cast<const uint16_t*>(p.q.data) + t * p.q.stride + p.q_rope_offset;
#pragma unroll
  for (int r = 0; r < Mover::kRows; ++r) {
    const int row = mover.row + 32 * r;
    const int64_t head = first_head + row;
    std::byte* to = shared + swizzled(row, mover.piece);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const uint16_t* from = column < kColumns - 1
                                 ? c + head * kLora + column * 64 + mover.piece * 8
                                 : rope + head * p.q_head_stride + mover.piece * 8;
      if (head < p.heads && split.queries_aligned) {
        cp_async_16(shared_address(to + column * kColumnBytes), from);
        continue;
      }
      uint4 value{};
      if (head < p.heads) {
        value = {from[0] | uint32_t{from[1]} << 16, from[2] | uint32_t{from[3]} << 16,
                 from[4] | uint32_t{from[5]} << 16, from[6] | uint32_t{from[7]} << 16};
      }
      *reinterpret_cast<uint4*>(to + column * kColumnBytes) = value;
    }
  }
}

// This thread's part of 64 heads' running softmax: rows `row` and `row` + 8.
struct Running {
  float highest[2] = {-INFINITY, -INFINITY};  // in base 2
  float sum[2] = {0, 0};                      // of this thread's columns
};

struct Block {
  uint32_t queries;
  uint32_t latents;
  std::byte* probabilities;
  float* exchange;  // [2][2][64]: by warpgroup, maxima then sums
  int group;
  int thread;   // in the warpgroup
  int row;      // of the accumulators
  int quarter;  // in the four threads of a row

  __device__ explicit Block(std::byte* shared)
      : queries(shared_address(shared)),
        latents(shared_address(shared + kTileBytes)),
        probabilities(shared + (1 + kStages) * kTileBytes),
        exchange(reinterpret_cast<float*>(probabilities + kColumnBytes)),
        group(static_cast<int>(threadIdx.x) / kGroup),
        thread(static_cast<int>(threadIdx.x) % kGroup),
        row(thread / kWarp * 16 + thread % kWarp / 4),
        quarter(thread % 4) {}

  // logits [64, 32] of this warpgroup's positions; meanwhile() runs beside the tensor cores.
  template <typename Meanwhile>
  __device__ void multiply_queries(int stage, float (&logits)[16], Meanwhile meanwhile) const {
    const uint64_t q = tile_descriptor(queries, 0, 1024);
    const uint64_t k = tile_descriptor(latents + stage * kTileBytes + group * 32 * 128, 0, 1024);
    wgmma_begin();
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const uint32_t at = column * kColumnBytes + step * 32;
        wgmma_bf16(logits, advanced(q, at), advanced(k, at), column + step > 0);
      }
    }
    wgmma_commit();
    meanwhile();
    wgmma_wait<0>(logits);
  }

  // Logits become probabilities in shared memory; returns by how much older sums shrink, per row.
  __device__ float2 soften(float (&logits)[16], float scale, int left, Running& running) const {
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int key = group * 32 + i / 4 * 8 + quarter * 2 + i % 2;
      logits[i] = key < left ? logits[i] * scale : -INFINITY;
      highest[i % 4 / 2] = fmaxf(highest[i % 4 / 2], logits[i]);
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(kWholeWarp, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(kWholeWarp, highest[half], 2));
      if (quarter == 0) exchange[group * kHeads + row + 8 * half] = highest[half];
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float other = exchange[(1 - group) * kHeads + row + 8 * half];
      const float now = fmaxf(running.highest[half], fmaxf(highest[half], other));
      shrink[half] = exp2f(running.highest[half] - now);
      running.highest[half] = now;
      running.sum[half] *= shrink[half];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair =
            pack_bf16(exp2f(logits[4 * j + 2 * half] - running.highest[half]),
                      exp2f(logits[4 * j + 2 * half + 1] - running.highest[half]));
        running.sum[half] += __uint_as_float(pair << 16) + __uint_as_float(pair & 0xffff0000u);
        *reinterpret_cast<uint32_t*>(probabilities + swizzled(row + 8 * half, group * 4 + j) +
                                     quarter * 4) = pair;
      }
    }
    return {shrink[0], shrink[1]};
  }

  // output [64, 256] += probabilities [64, 64] times this warpgroup's columns of the values;
  // meanwhile() as above.
  template <typename Meanwhile>
  __device__ void multiply_values(int stage, float (&output)[kOwnColumns / 2],
                                  Meanwhile meanwhile) const {
    const uint64_t a = tile_descriptor(shared_address(probabilities), 0, 1024);
    const uint64_t b = tile_descriptor(latents + stage * kTileBytes + group * 4 * kColumnBytes,
                                       kColumnBytes, 1024);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      wgmma_bf16_mn(output, advanced(a, step * 32), advanced(b, step * 16 * 128), true);
    }
    wgmma_commit();
    meanwhile();
    wgmma_wait<0>(output);
  }

  // Both warpgroups' sums of each row, into running.sum.
  __device__ void add_sums(Running& running) const {
    float* sums = exchange + 2 * kHeads;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      running.sum[half] += __shfl_xor_sync(kWholeWarp, running.sum[half], 1);
      running.sum[half] += __shfl_xor_sync(kWholeWarp, running.sum[half], 2);
      if (quarter == 0) sums[group * kHeads + row + 8 * half] = running.sum[half];
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      running.sum[half] += sums[(1 - group) * kHeads + row + 8 * half];
    }
  }

  __device__ void store_output(const Split& split, int64_t t, int64_t first_head,
                               const float (&output)[kOwnColumns / 2],
                               const Running& running) const {
    const SparseMlaParams& p = split.p;
    for (int half = 0; half < 2; ++half) {
      const int64_t head = first_head + row + 8 * half;
      if (head >= p.heads) continue;
      auto* to = reinterpret_cast<uint16_t*>(p.o.data) + t * p.o.stride + head * kLora +
                 group * kOwnColumns + quarter * 2;
      const float factor = 1.0f / running.sum[half];
#pragma unroll
      for (int j = 0; j < kOwnColumns / 8; ++j) {
        const uint32_t pair =
            pack_bf16(output[4 * j + 2 * half] * factor, output[4 * j + 2 * half + 1] * factor);
        if (split.output_aligned) {
          *reinterpret_cast<uint32_t*>(to + j * 8) = pair;
        } else {
          to[j * 8] = static_cast<uint16_t>(pair);
          to[j * 8 + 1] = static_cast<uint16_t>(pair >> 16);
        }
      }
    }
  }

  // at: of [T, head_blocks, splits].
  __device__ void store_partial(const Split& split, int64_t at,
                                const float (&output)[kOwnColumns / 2],
                                const Running& running) const {
    for (int half = 0; half < 2; ++half) {
      const int64_t line = at * kHeads + row + 8 * half;
      float* to = split.partial + line * kLora + group * kOwnColumns + quarter * 2;
#pragma unroll
      for (int j = 0; j < kOwnColumns / 8; ++j) {
        *reinterpret_cast<float2*>(to + j * 8) = {output[4 * j + 2 * half],
                                                  output[4 * j + 2 * half + 1]};
      }
      if (group == 0 && quarter == 0) {
        split.state[line] = {running.highest[half], running.sum[half]};
      }
    }
  }
};

#endif  // LS_HAS_WGMMA

}  // namespace
}  // namespace longshore::kernels::cuda
