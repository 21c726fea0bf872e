#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/linear/generic.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTokens = 8;  // that share a weight's decoding

// A warp per row of w and kTokens tokens. Grid: (rows / kWarps, tokens / kTokens).
__global__ void __launch_bounds__(kWarps* kWarp) product(HeadLinearParams p, bool accumulate) {
  begin_kernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= p.w.out) return;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTokens;
  const int64_t out = p.w.out / p.heads;
  const int64_t head = row / out;
  const int64_t size = dtype_size(p.x.dtype);
  const std::byte* x = p.x.data + (first * p.x.stride + head * p.x_head_stride) * size;
  const int64_t count = min(static_cast<int64_t>(kTokens), p.x.rows - first);
  float sums[kTokens] = {};
  for (int64_t i = lane; i < p.w.in; i += kWarp) {
    const float weight = load_weight(p.w, row, i);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= count) continue;
      const float value = load_activation(x + t * p.x.stride * size, p.x.dtype, i);
      sums[t] = fmaf(round_to_bf16(value), weight, sums[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float sum = warp_sum(sums[t]);
    if (lane != 0 || t >= count) continue;
    std::byte* y = p.y.data + (first + t) * p.y.stride * dtype_size(p.y.dtype);
    const int64_t column = head * p.y_head_stride + row % out;
    const float before = accumulate ? reinterpret_cast<const float*>(y)[column] : 0.0f;
    store_activation(y, p.y.dtype, column, before + sum);
  }
}

LS_LOAD_AT_START(product);

}  // namespace

void generic_product(Context& context, const HeadLinearParams& params, bool accumulate) {
  constexpr int64_t kMostRows = int64_t{65535} * kTokens;  // of a grid's second dimension
  for (int64_t first = 0; first < params.x.rows; first += kMostRows) {
    HeadLinearParams p = params;
    p.x.data = params.x.row(first);
    p.x.rows = std::min(kMostRows, params.x.rows - first);
    p.y = params.y.slice_rows(first, p.x.rows);
    const dim3 grid(static_cast<unsigned>(ceil_div(p.w.out, kWarps)),
                    static_cast<unsigned>(ceil_div(p.x.rows, kTokens)));
    launch_kernel(context, "linear", product, {grid, kWarps * kWarp}, p, accumulate);
  }
}

}  // namespace longshore::kernels::cuda
