#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;

// Grid: (columns / (kThreads * kPerThread), tokens).
__global__ void silu_mul_rows(SiluMulParams p) {
  begin_kernel();
  const int64_t t = blockIdx.y;
  const float* gate = reinterpret_cast<const float*>(p.gate.data) + t * p.gate.stride;
  const float* up = reinterpret_cast<const float*>(p.up.data) + t * p.up.stride;
  std::byte* y = p.y.data + t * p.y.stride * dtype_size(p.y.dtype);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j * kThreads;
    if (i < p.y.cols) store_activation(y, p.y.dtype, i, silu(gate[i]) * up[i]);
  }
}

LS_LOAD_AT_START(silu_mul_rows);

}  // namespace

void silu_mul(Context& context, const SiluMulParams& params) {
  validate(params);
  constexpr int64_t kMostRows = 65535;  // of a grid's second dimension
  for (int64_t first = 0; first < params.y.rows; first += kMostRows) {
    SiluMulParams p = params;
    const int64_t rows = std::min(kMostRows, params.y.rows - first);
    p.gate.data = params.gate.row(first);
    p.up.data = params.up.row(first);
    p.y = params.y.slice_rows(first, rows);
    const dim3 grid(static_cast<unsigned>(ceil_div(p.y.cols, kThreads * kPerThread)),
                    static_cast<unsigned>(rows));
    launch_kernel(context, "silu_mul", silu_mul_rows, {grid, kThreads}, p);
  }
}

}  // namespace longshore::kernels::cuda
