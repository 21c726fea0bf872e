#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/common/stream.cuh"
#include "kernels/cuda/experts/sort.h"
#include "kernels/cuda/experts/stream.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarps = 8;

template <typename Weight>
__device__ StreamRows stream_rows(const WeightView& w, int64_t row) {
  const int64_t row_bytes = w.in / Weight::kColumns * 16;
  const int g = threadIdx.x % kWarp / 4;
  return {
      w.data + min(row + g, w.out - 1) * row_bytes,
      w.data + min(row + g + 8, w.out - 1) * row_bytes,
      w.scale == nullptr ? nullptr : w.scale + min(row, w.out - 1) / w.block_rows * w.scale_stride};
}

// hidden[place] = silu(gate x) * up x, [routes, intermediate] bf16 in the order of the sorted
// routes. A block: 16 rows of gate and of up for one item. Grid: (rows, items).
template <typename Weight, int kTiles>
__global__ void __launch_bounds__(kWarps* kWarp)
    gate_up(ExpertsParams p, SortedRoutes sorted, __nv_bfloat16* hidden) {
  begin_kernel();
  constexpr int kGroups = 2;
  constexpr int kParts = kWarps / kGroups;
  __shared__ StreamSums<kTiles, kGroups, kParts> shared;
  if (static_cast<int>(blockIdx.y) >= *sorted.item_count) return;
  const ExpertItem item = sorted.items[blockIdx.y];
  const int32_t* routes = sorted.routes + item.first;
  const int warp = threadIdx.x / kWarp;
  const int group = warp % kGroups;
  const int part = warp / kGroups;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMmaRows;
  const ExpertView* expert = p.experts + item.expert;
  const StreamRows rows = stream_rows<Weight>(group == 0 ? expert->gate : expert->up, row);
  const __nv_bfloat16* x[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int i = tile * kMmaTokens + threadIdx.x % kWarp / 4;
    x[tile] = i < item.count ? reinterpret_cast<const __nv_bfloat16*>(p.x.data) +
                                   routes[i] / p.top_k * p.x.stride
                             : nullptr;
  }
  float sums[kTiles][4] = {};
  stream_product<Weight, kTiles, kParts>(rows, static_cast<int>(p.x.cols / kStreamColumns<Weight>),
                                         part, x, sums);
  allow_next_kernel();
  shared.put(part, group, sums);
  __syncthreads();
  const int64_t width = p.shape.gate.out;
  for (int n = threadIdx.x; n < item.count * kMmaRows; n += kWarps * kWarp) {
    const int r = n % kMmaRows;
    const int t = n / kMmaRows;
    if (row + r >= width) continue;
    hidden[(item.first + t) * width + row + r] =
        __float2bfloat16_rn(silu(shared.total(0, t, r)) * shared.total(1, t, r));
  }
}

// routed[route] = down hidden, [routes, hidden] fp32. A block: kGroups * 16 rows of down for one
// item. Grid: (rows, items).
template <typename Weight, int kTiles, int kGroups>
__global__ void __launch_bounds__(kWarps* kWarp)
    down(ExpertsParams p, SortedRoutes sorted, const __nv_bfloat16* hidden, float* routed) {
  begin_kernel();
  constexpr int kParts = kWarps / kGroups;
  __shared__ StreamSums<kTiles, kGroups, kParts> shared;
  if (static_cast<int>(blockIdx.y) >= *sorted.item_count) return;
  const ExpertItem item = sorted.items[blockIdx.y];
  const int warp = threadIdx.x / kWarp;
  const int group = warp % kGroups;
  const int part = warp / kGroups;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kGroups * kMmaRows;
  const int64_t width = p.shape.gate.out;
  const StreamRows rows =
      stream_rows<Weight>(p.experts[item.expert].down, first_row + group * kMmaRows);
  const __nv_bfloat16* x[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int i = tile * kMmaTokens + threadIdx.x % kWarp / 4;
    x[tile] = i < item.count ? hidden + (item.first + i) * width : nullptr;
  }
  float sums[kTiles][4] = {};
  stream_product<Weight, kTiles, kParts>(rows, static_cast<int>(width / kStreamColumns<Weight>),
                                         part, x, sums);
  allow_next_kernel();
  shared.put(part, group, sums);
  __syncthreads();
  for (int n = threadIdx.x; n < item.count * kGroups * kMmaRows; n += kWarps * kWarp) {
    const int r = n % (kGroups * kMmaRows);
    const int t = n / (kGroups * kMmaRows);
    if (first_row + r >= p.x.cols) continue;
    const int64_t route = sorted.routes[item.first + t];
    routed[route * p.x.cols + first_row + r] = shared.total(r / kMmaRows, t, r % kMmaRows);
  }
}

template <typename Weight, int kTiles>
void launch(Context& context, const ExpertsParams& p) {
  const SortedRoutes sorted = sort_routes(context, p, kTiles * kMmaTokens);
  const int64_t routes = p.x.rows * p.top_k;
  const int64_t width = p.shape.gate.out;
  auto* hidden = context.scratch<__nv_bfloat16>(routes * width);
  auto* routed = context.scratch<float>(routes * p.x.cols);
  const auto items = static_cast<unsigned>(sorted.item_limit);
  launch_kernel(context, "experts", gate_up<Weight, kTiles>,
                {dim3(static_cast<unsigned>(ceil_div(width, kMmaRows)), items), kWarps * kWarp}, p,
                sorted, hidden);
  // Short rows are not worth sharing among warps.
  const bool shared_rows = width / kStreamColumns<Weight> >= kWarps;
  const int64_t groups = shared_rows ? 2 : kWarps;
  const auto kernel = shared_rows ? down<Weight, kTiles, 2> : down<Weight, kTiles, kWarps>;
  launch_kernel(
      context, "experts", kernel,
      {dim3(static_cast<unsigned>(ceil_div(p.x.cols, groups * kMmaRows)), items), kWarps * kWarp},
      p, sorted, hidden, routed);
  add_routed(context, p, routed);
}

template <typename Weight>
void choose_tiles(Context& context, const ExpertsParams& p, int64_t item) {
  switch (item) {
    case 8:
      return launch<Weight, 1>(context, p);
    case 16:
      return launch<Weight, 2>(context, p);
    case 32:
      return launch<Weight, 4>(context, p);
    default:
      LS_FAIL("items of {} tokens", item);
  }
}

bool streams(const WeightView& w) {
  if (w.dtype == DType::kBF16) return w.in % kStreamColumns<Bf16Weight> == 0;
  return w.dtype == DType::kF8E4M3 && w.in % kStreamColumns<Fp8Weight> == 0 &&
         w.block_cols == kStreamColumns<Fp8Weight> && w.block_rows % kMmaRows == 0;
}

LS_LOAD_AT_START(gate_up<Fp8Weight, 1>);

}  // namespace

bool can_stream(const ExpertsParams& p) {
  const ExpertView& shape = p.shape;
  return !p.mixed && p.num_experts <= kMostExperts && shape.gate.dtype == shape.up.dtype &&
         shape.gate.dtype == shape.down.dtype && streams(shape.gate) && streams(shape.up) &&
         streams(shape.down);
}

int64_t stream_experts_bytes(const ExpertsParams& p, int64_t tokens, int64_t item) {
  const int64_t routes = tokens * p.top_k;
  return packed_bytes(tokens, p.x.cols) + sorted_routes_bytes(routes, p.num_experts, item) +
         routes * (p.shape.gate.out * 2 + p.x.cols * 4) + 2 * 256;
}

void stream_experts(Context& context, const ExpertsParams& params, int64_t item) {
  ScratchScope scope(context);
  ExpertsParams p = params;
  p.x = packed(context, p.x);
  if (p.shape.gate.dtype == DType::kBF16) {
    choose_tiles<Bf16Weight>(context, p, item);
  } else {
    choose_tiles<Fp8Weight>(context, p, item);
  }
}

}  // namespace longshore::kernels::cuda
