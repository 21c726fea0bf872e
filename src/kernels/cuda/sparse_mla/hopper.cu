// Flash-style sparse MLA on Hopper's bf16 tensor cores, for latents of 512 + 64.
//
// A block owns 64 heads of one token and a range of its chosen positions, in tiles of 64. The
// tile's latents are gathered row by row into shared memory once, as bf16 (latents.cuh), and serve
// twice: all 576 columns as keys, the first 512 as values. Two warpgroups: each computes the logits
// of its 32 positions and the output's 256 columns that are its own; maxima and probabilities go
// through shared memory. The next tiles are on their way meanwhile. Few tokens are split over
// blocks by position, and a second kernel combines them. Softmax and sums are fp32, probabilities
// enter the product in bf16 (their sum is taken of the rounded values).
#include <algorithm>
#include <type_traits>

#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/sparse_mla/latents.cuh"

namespace longshore::kernels::cuda {
namespace {

constexpr int kCombineColumns = kLora / 4;
constexpr int kCombineRows = 4;

#ifdef LS_HAS_WGMMA
template <bool kFp8>
using Latents = std::conditional_t<kFp8, Fp8Latents, Bf16Latents>;
#endif

// grid: [splits, head_blocks, T]
template <bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) sparse_mla_kernel(const Split split) {
  begin_kernel();
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
  load_queries(split, shared, t, first_head);  // joins the next group of copies
  if constexpr (kFp8) cp_async_commit();
  Latents<kFp8> latents(p, t, count, begin, end, block.latents);

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
    latents.await();
    __syncthreads();
    block.multiply_queries(stage, logits, [&] { latents.while_keys_multiply(stage); });
    const float2 shrink = block.soften(logits, scale, count - tile * kTile, running);
#pragma unroll
    for (int i = 0; i < kOwnColumns / 2; ++i) output[i] *= i % 4 < 2 ? shrink.x : shrink.y;
    fence_for_wgmma();
    __syncthreads();
    block.multiply_values(stage, output, [&] { latents.while_values_multiply(stage); });
    latents.after_values(stage);
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
  begin_kernel();
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

LS_LOAD_AT_START(combine_kernel);

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
  const auto kernel =
      p.cache.dtype == DType::kF8E4M3 ? sparse_mla_kernel<true> : sparse_mla_kernel<false>;
  context.check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "sparse_mla");
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(split.head_blocks),
                  static_cast<unsigned>(p.o.rows));
  launch_kernel(context, "sparse_mla", kernel, {grid, kThreads, kSharedBytes}, split);
  if (splits == 1) return;
  const dim3 rows(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.o.rows));
  const dim3 threads(kCombineColumns, kCombineRows);
  const auto weight_bytes = static_cast<size_t>(splits) * sizeof(float);
  launch_kernel(context, "sparse_mla: combining", combine_kernel, {rows, threads, weight_bytes},
                split);
}

}  // namespace longshore::kernels::cuda
