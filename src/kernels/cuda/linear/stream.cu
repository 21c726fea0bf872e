#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/stream.cuh"
#include "kernels/cuda/linear/library.h"
#include "kernels/cuda/linear/stream.h"

namespace longshore::kernels::cuda {
namespace {

// A block: kWarps warps, kGroups groups of 16 rows of one head, 8 * kTiles tokens; its other warps
// share the columns. Grid: (rows of a head, heads, tokens).
template <typename Weight, int kTiles, int kGroups, int kWarps, int kAhead>
__global__ void __launch_bounds__(kWarps* kWarp) stream_rows(HeadLinearParams p, bool accumulate) {
  begin_early_kernel();
  constexpr int kParts = kWarps / kGroups;
  using Sums = StreamSums<kTiles, kGroups, kParts>;
  __shared__ Sums shared;
  const int warp = threadIdx.x / kWarp;
  const int group = warp % kGroups;
  const int part = warp / kGroups;
  const int g = threadIdx.x % kWarp / 4;
  const int64_t out = p.w.out / p.heads;
  const int64_t head = blockIdx.y;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kGroups + group) * kMmaRows;
  const int64_t token = static_cast<int64_t>(blockIdx.z) * Sums::kTokens;

  const int64_t row_bytes = p.w.in / Weight::kColumns * 16;
  const std::byte* w = p.w.data + head * out * row_bytes;
  // Rows past the end repeat the last one and are not stored.
  const StreamRows rows{
      w + min(row + g, out - 1) * row_bytes, w + min(row + g + 8, out - 1) * row_bytes,
      p.w.scale == nullptr ? nullptr
                           : p.w.scale + min(row, out - 1) / p.w.block_rows * p.w.scale_stride};
  const __nv_bfloat16* x[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int64_t t = token + tile * kMmaTokens + g;
    x[tile] = t < p.x.rows ? reinterpret_cast<const __nv_bfloat16*>(p.x.data) + t * p.x.stride +
                                 head * p.x_head_stride
                           : nullptr;
  }
  float sums[kTiles][4] = {};
  stream_product<Weight, kTiles, kParts, kAhead, /*kWeightsFirst=*/true>(
      rows, static_cast<int>(p.w.in / kStreamColumns<Weight>), part, x, sums);
  allow_next_kernel();
  shared.put(part, group, sums);
  __syncthreads();

  for (int n = threadIdx.x; n < Sums::kTokens * kGroups * kMmaRows; n += kWarps * kWarp) {
    const int r = n % (kGroups * kMmaRows);
    const int t = n / (kGroups * kMmaRows);
    const int64_t o = static_cast<int64_t>(blockIdx.x) * kGroups * kMmaRows + r;
    if (token + t >= p.x.rows || o >= out) continue;
    std::byte* y = p.y.data + (token + t) * p.y.stride * dtype_size(p.y.dtype);
    const int64_t column = head * p.y_head_stride + o;
    const float before = accumulate ? reinterpret_cast<const float*>(y)[column] : 0.0f;
    store_activation(y, p.y.dtype, column, before + shared.total(r / kMmaRows, t, r % kMmaRows));
  }
}

template <typename Weight, int kTiles, int kGroups, int kWarps, int kAhead>
void launch(Context& context, const HeadLinearParams& p, bool accumulate) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.w.out / p.heads, kGroups * kMmaRows)),
                  static_cast<unsigned>(p.heads),
                  static_cast<unsigned>(ceil_div(p.x.rows, kTiles * kMmaTokens)));
  launch_kernel(context, "linear", stream_rows<Weight, kTiles, kGroups, kWarps, kAhead>,
                {grid, kWarps * kWarp}, p, accumulate);
}

// Groups of rows share the tokens in the first cache; fewer of them make more blocks. Where there
// are few blocks each has more warps and more of its rows in flight.
template <typename Weight, int kTiles>
void choose_groups(Context& context, const HeadLinearParams& p, bool accumulate) {
  const int64_t tiles =
      ceil_div(p.w.out / p.heads, kMmaRows) * p.heads * ceil_div(p.x.rows, kTiles * kMmaTokens);
  const int64_t processors = context.multiprocessors();
  if (p.w.in / kStreamColumns<Weight> < 8) {  // rows too short to share among many warps
    return launch<Weight, kTiles, 4, 8, 2>(context, p, accumulate);
  }
  if constexpr (kTiles == 1) {
    if (tiles <= 2 * processors) return launch<Weight, 1, 1, 16, 3>(context, p, accumulate);
    return launch<Weight, 1, 1, 8, 2>(context, p, accumulate);
  } else {
    if (tiles > 2 * processors) return launch<Weight, kTiles, 4, 16, 2>(context, p, accumulate);
    return launch<Weight, kTiles, 1, 16, 2>(context, p, accumulate);
  }
}

template <typename Weight>
void choose_tiles(Context& context, const HeadLinearParams& p, bool accumulate) {
  if (p.x.rows <= 8) return choose_groups<Weight, 1>(context, p, accumulate);
  if (p.x.rows <= 16) return choose_groups<Weight, 2>(context, p, accumulate);
  choose_groups<Weight, 4>(context, p, accumulate);
}

LS_LOAD_AT_START(stream_rows<Fp8Weight, 1, 1, 8, 2>);

}  // namespace

bool can_stream(const WeightView& w, int64_t rows_per_head) {
  if (!aligned(w.data, 16)) return false;
  if (w.dtype == DType::kBF16) return w.in % kStreamColumns<Bf16Weight> == 0;
  return w.dtype == DType::kF8E4M3 && w.in % kStreamColumns<Fp8Weight> == 0 &&
         w.block_cols == kStreamColumns<Fp8Weight> && w.block_rows % kMmaRows == 0 &&
         rows_per_head == w.out;
}

void stream_linear(Context& context, const HeadLinearParams& params, bool accumulate) {
  constexpr int64_t kMostRows = int64_t{65535} * 32;  // of a grid's third dimension
  LS_CHECK(params.x.rows <= kMostRows && params.heads <= 65535);
  if (params.w.dtype == DType::kBF16) {
    choose_tiles<Bf16Weight>(context, params, accumulate);
  } else {
    choose_tiles<Fp8Weight>(context, params, accumulate);
  }
}

void packed_linear(Context& context, const HeadLinearParams& params, bool accumulate) {
  const bool many = params.x.rows > kStreamTokens && params.w.dtype == DType::kBF16;
  if (many && library_linear(context, params, accumulate)) return;
  stream_linear(context, params, accumulate);
}

}  // namespace longshore::kernels::cuda
