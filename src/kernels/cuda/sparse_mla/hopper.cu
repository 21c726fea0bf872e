// Flash-style sparse MLA on Hopper's bf16 tensor cores, for latents of 512 + 64.
//
// A block owns 64 heads of one token and a range of its chosen positions, in tiles of 64. The
// tile's latents are gathered row by row into shared memory once and serve twice: all 576 columns
// as keys, the first 512 as values. Two warpgroups: each computes the logits of its 32 positions
// and the output's 256 columns that are its own; maxima and probabilities go through shared memory.
// The next tile is in flight meanwhile. Few tokens are split over blocks by position, and a second
// kernel combines them. Softmax and sums are fp32, probabilities enter the product in bf16 (their
// sum is taken of the rounded values).
#include <algorithm>

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
constexpr int kCombineColumns = kLora / 4;
constexpr int kCombineRows = 4;

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

// Gathers tiles of latents. Positions and pages are looked up a tile ahead of the copies, so that
// no thread waits for either.
class Gather {
 public:
  __device__ Gather(const SparseMlaParams& p, int64_t t, int count, int tile, uint32_t shared)
      : data_(reinterpret_cast<const uint16_t*>(p.cache.data)),
        table_(p.batch.page_table + p.batch.sequence_of[t] * p.batch.page_table_width),
        selected_(p.selected + t * p.selected_stride),
        shared_(shared),
        last_(count - 1) {
    find_positions(tile);
    find_pages();
    find_positions(tile + 1);
  }

  // Starts the copies of the next tile into a stage; rows past the last position repeat it.
  __device__ void start(int stage, int tile) {
    const uint32_t to = shared_ + stage * kTileBytes + swizzled(mover_.row, mover_.piece);
#pragma unroll
    for (int r = 0; r < Mover::kRows; ++r) {
      const uint16_t* from = data_ + token_[r] * kWidth + mover_.piece * 8;
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        cp_async_16(to + r * 32 * 128 + column * kColumnBytes, from + column * 64);
      }
    }
    find_pages();
    find_positions(tile + 2);
  }

 private:
  __device__ void find_positions(int tile) {
    for (int r = 0; r < Mover::kRows; ++r) {
      position_[r] = __ldg(selected_ + min(tile * kTile + mover_.row + 32 * r, last_));
    }
  }
  __device__ void find_pages() {
    for (int r = 0; r < Mover::kRows; ++r) {
      const int32_t page = __ldg(table_ + position_[r] / kPageTokens);
      token_[r] = int64_t{page} * kPageTokens + position_[r] % kPageTokens;
    }
  }

  Mover mover_;
  const uint16_t* data_;
  const int32_t* table_;
  const int32_t* selected_;
  uint32_t shared_;
  int last_;
  int32_t position_[Mover::kRows];  // of the tile after the next
  int64_t token_[Mover::kRows];     // of the next tile
};

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

  // logits [64, 32] of this warpgroup's positions.
  __device__ void multiply_queries(int stage, float (&logits)[16]) const {
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

  // output [64, 256] += probabilities [64, 64] times this warpgroup's columns of the values.
  __device__ void multiply_values(int stage, float (&output)[kOwnColumns / 2]) const {
    const uint64_t a = tile_descriptor(shared_address(probabilities), 0, 1024);
    const uint64_t b = tile_descriptor(latents + stage * kTileBytes + group * 4 * kColumnBytes,
                                       kColumnBytes, 1024);
    wgmma_begin();
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      wgmma_bf16_mn(output, advanced(a, step * 32), advanced(b, step * 16 * 128), true);
    }
    wgmma_commit();
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

// grid: [splits, head_blocks, T]
__global__ void __launch_bounds__(kThreads, 1) sparse_mla_kernel(const Split split) {
#ifdef LS_HAS_WGMMA
  extern __shared__ __align__(1024) std::byte shared[];
  const SparseMlaParams& p = split.p;
  const int64_t t = blockIdx.z;
  const int64_t first_head = static_cast<int64_t>(blockIdx.y) * kHeads;
  const int64_t at = (t * split.head_blocks + blockIdx.y) * split.splits + blockIdx.x;
  const int count = p.counts[t];
  const int begin = static_cast<int>(blockIdx.x * split.split_tiles);
  const int end = min(begin + static_cast<int>(split.split_tiles), (count + kTile - 1) / kTile);
  if (begin >= end) {
    if (threadIdx.x < kHeads) split.state[at * kHeads + threadIdx.x] = {-INFINITY, 0.0f};
    return;
  }
  const Block block(shared);
  load_queries(split, shared, t, first_head);  // joins the first tile's group
  Gather gather(p, t, count, begin, block.latents);
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    if (begin + s < end) gather.start(s, begin + s);
    cp_async_commit();
  }

  constexpr float kLog2e = 1.44269504f;
  const float scale = p.scale * kLog2e;
  Running running;
  float logits[16];
  float output[kOwnColumns / 2];
#pragma unroll
  for (float& value : logits) value = 0;
#pragma unroll
  for (float& value : output) value = 0;
  for (int tile = begin; tile < end; ++tile) {
    const int stage = (tile - begin) % kStages;
    cp_async_wait<kStages - 1>();
    fence_for_wgmma();
    __syncthreads();
    block.multiply_queries(stage, logits);
    const float2 shrink = block.soften(logits, scale, count - tile * kTile, running);
#pragma unroll
    for (int i = 0; i < kOwnColumns / 2; ++i) output[i] *= i % 4 < 2 ? shrink.x : shrink.y;
    fence_for_wgmma();
    __syncthreads();
    block.multiply_values(stage, output);
    __syncthreads();
    if (tile + kStages < end) gather.start(stage, tile + kStages);
    cp_async_commit();
  }
  cp_async_wait<0>();
  block.add_sums(running);
  if (split.splits == 1) {
    block.store_output(split, t, first_head, output, running);
  } else {
    block.store_partial(split, at, output, running);
  }
#endif
}

// grid: [heads, T]; block: [kLora / 4, kCombineRows], a thread four columns of every
// kCombineRows-th split, so that the splits are read at once. Shared memory: [splits] weights.
__global__ void __launch_bounds__(kCombineColumns* kCombineRows) combine_kernel(const Split split) {
  extern __shared__ float weights[];
  __shared__ float4 sums[kCombineRows][kCombineColumns];
  const SparseMlaParams& p = split.p;
  const int64_t head = blockIdx.x;
  const int64_t t = blockIdx.y;
  const int64_t line =
      ((t * split.head_blocks + head / kHeads) * split.splits) * kHeads + head % kHeads;
  const int splits = static_cast<int>(split.splits);
  const int column = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(threadIdx.y);
  const int lane = column % kWarp;
  float highest = -INFINITY;
  for (int s = lane; s < splits; s += kWarp) {
    highest = fmaxf(highest, split.state[line + s * kHeads].x);
  }
  highest = warp_max(highest);
  float total = 0;
  for (int s = lane; s < splits; s += kWarp) {
    const float2 state = split.state[line + s * kHeads];
    const float weight = exp2f(state.x - highest);
    total += weight * state.y;
    if (row == 0 && column < kWarp) weights[s] = weight;
  }
  total = warp_sum(total);
  __syncthreads();
  float4 sum{};
  const auto* from = reinterpret_cast<const float4*>(split.partial + line * kLora) + column;
  for (int s = row; s < splits; s += kCombineRows) {
    const float weight = weights[s];
    if (weight == 0) continue;  // a split without positions has written nothing
    const float4 value = __ldcs(from + int64_t{s} * kHeads * kCombineColumns);
    sum.x += weight * value.x;
    sum.y += weight * value.y;
    sum.z += weight * value.z;
    sum.w += weight * value.w;
  }
  sums[row][column] = sum;
  __syncthreads();
  if (row > 0) return;
  for (int r = 1; r < kCombineRows; ++r) {
    sum.x += sums[r][column].x;
    sum.y += sums[r][column].y;
    sum.z += sums[r][column].z;
    sum.w += sums[r][column].w;
  }
  auto* to =
      reinterpret_cast<__nv_bfloat16*>(p.o.data) + t * p.o.stride + head * kLora + column * 4;
  to[0] = __float2bfloat16_rn(sum.x / total);
  to[1] = __float2bfloat16_rn(sum.y / total);
  to[2] = __float2bfloat16_rn(sum.z / total);
  to[3] = __float2bfloat16_rn(sum.w / total);
}

// How many blocks share a token: the least time, counted in tiles. A round of blocks costs its
// tiles and its start; combining costs a launch, and each partial result a write and a read of 128
// KB. The constants are fits to an H100.
int64_t choose_splits(const Context& context, int64_t blocks, int64_t tiles, int64_t most) {
  constexpr double kStart = 1.5;
  constexpr double kCombine = 1.5;
  constexpr double kPartial = 0.03;
  const int64_t multiprocessors = context.multiprocessors();
  int64_t best = 1;
  double least = 0;
  for (int64_t splits = 1; splits <= std::min(tiles, most); ++splits) {
    const int64_t each = ceil_div(tiles, splits);
    if (ceil_div(tiles, each) != splits) continue;  // the last would be empty
    const auto rounds = static_cast<double>(ceil_div(blocks * splits, multiprocessors));
    const double combining =
        splits > 1 ? kCombine + kPartial * static_cast<double>(blocks * splits) : 0;
    const double cost = rounds * (static_cast<double>(each) + kStart) + combining;
    if (splits == 1 || cost < least) {
      least = cost;
      best = splits;
    }
  }
  return best;
}

}  // namespace

bool takes_sparse_mla_hopper(const Context& context, const SparseMlaParams& p) {
  return context.compute_capability() == 90 && context.shared_bytes_per_block() >= kSharedBytes &&
         p.kv_lora == kLora && p.rope_dim == kRope && p.q.dtype == DType::kBF16 &&
         p.o.dtype == DType::kBF16 && aligned(p.cache.data, 16);
}

void sparse_mla_hopper(Context& context, const SparseMlaParams& p) {
  const ScratchScope scope(context);
  Split split{};
  split.p = p;
  split.head_blocks = ceil_div(p.heads, kHeads);
  const int64_t blocks = p.o.rows * split.head_blocks;
  const int64_t tiles = ceil_div(p.selected_stride, kTile);
  constexpr int64_t kPartialBytes = kHeads * (kLora * 4 + 8);
  const int64_t most =
      std::max<int64_t>(1, (context.scratch_left() - 1024) / (blocks * kPartialBytes));
  const int64_t splits = choose_splits(context, blocks, tiles, most);
  split.split_tiles = ceil_div(tiles, splits);
  split.splits = splits;
  if (splits > 1) {
    split.partial = context.scratch<float>(blocks * splits * kHeads * kLora);
    split.state = context.scratch<float2>(blocks * splits * kHeads);
  }
  split.queries_aligned = aligned(p.q_c.data, 16) && aligned(p.q.data, 16) &&
                          p.q_head_stride % 8 == 0 && p.q_rope_offset % 8 == 0 &&
                          (p.o.rows == 1 || (p.q_c.stride % 8 == 0 && p.q.stride % 8 == 0));
  split.output_aligned = aligned(p.o.data, 4) && (p.o.rows == 1 || p.o.stride % 2 == 0);
  context.check(cudaFuncSetAttribute(sparse_mla_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     kSharedBytes),
                "sparse_mla");
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(split.head_blocks),
                  static_cast<unsigned>(p.o.rows));
  sparse_mla_kernel<<<grid, kThreads, kSharedBytes, context.stream()>>>(split);
  context.launched("sparse_mla");
  if (splits == 1) return;
  const dim3 rows(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.o.rows));
  const dim3 threads(kCombineColumns, kCombineRows);
  const auto weight_bytes = static_cast<size_t>(splits) * sizeof(float);
  combine_kernel<<<rows, threads, weight_bytes, context.stream()>>>(split);
  context.launched("sparse_mla: combining");
}

}  // namespace longshore::kernels::cuda
