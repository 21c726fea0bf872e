#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/experts/generic.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int64_t kMostRows = 65535;  // of a grid's second dimension

// hidden [routes, intermediate] bf16. A warp per route and column. Grid: (columns / kWarps,
// routes).
__global__ void gate_up(ExpertsParams p, __nv_bfloat16* hidden) {
  begin_kernel();
  const int64_t route = blockIdx.y;
  const int64_t o = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int32_t id = p.ids[route];
  if (id < 0 || o >= p.shape.gate.out) return;
  const std::byte* x = p.x.data + route / p.top_k * p.x.stride * dtype_size(p.x.dtype);
  float gate = 0;
  float up = 0;
  for (int64_t i = threadIdx.x % kWarp; i < p.x.cols; i += kWarp) {
    const float value = round_to_bf16(load_activation(x, p.x.dtype, i));
    gate = fmaf(value, load_weight(p.experts[id].gate, o, i), gate);
    up = fmaf(value, load_weight(p.experts[id].up, o, i), up);
  }
  gate = warp_sum(gate);
  up = warp_sum(up);
  if (threadIdx.x % kWarp != 0) return;
  hidden[route * p.shape.gate.out + o] = __float2bfloat16_rn(silu(gate) * up);
}

// A warp per token and column of y. Grid: (columns / kWarps, tokens).
__global__ void down(ExpertsParams p, const __nv_bfloat16* hidden) {
  begin_kernel();
  const int64_t t = blockIdx.y;
  const int64_t o = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (o >= p.x.cols) return;
  const int64_t width = p.shape.gate.out;
  float* y = reinterpret_cast<float*>(p.y.data) + t * p.y.stride + o;
  float total = *y;
  for (int64_t route = t * p.top_k; route < (t + 1) * p.top_k; ++route) {
    const int32_t id = p.ids[route];
    if (id < 0) continue;
    float sum = 0;
    for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp) {
      sum = fmaf(__bfloat162float(hidden[route * width + i]), load_weight(p.experts[id].down, o, i),
                 sum);
    }
    total = fmaf(p.weights[route], warp_sum(sum), total);
  }
  if (threadIdx.x % kWarp == 0) *y = total;
}

LS_LOAD_AT_START(gate_up);

}  // namespace

void generic_experts(Context& context, const ExpertsParams& p) {
  ScratchScope scope(context);
  auto* hidden = context.scratch<__nv_bfloat16>(p.x.rows * p.top_k * p.shape.gate.out);
  const int64_t routes = p.x.rows * p.top_k;
  LS_CHECK(routes <= kMostRows);  // experts() splits
  launch_kernel(context, "experts", gate_up,
                {dim3(static_cast<unsigned>(ceil_div(p.shape.gate.out, kWarps)),
                      static_cast<unsigned>(routes)),
                 kWarps * kWarp},
                p, hidden);
  launch_kernel(
      context, "experts", down,
      {dim3(static_cast<unsigned>(ceil_div(p.x.cols, kWarps)), static_cast<unsigned>(p.x.rows)),
       kWarps * kWarp},
      p, hidden);
}

}  // namespace longshore::kernels::cuda
