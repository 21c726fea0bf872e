#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: rows of y.
__global__ void gather(GatherRowsParams p) {
  begin_kernel();
  const int64_t r = blockIdx.x;
  const float* x = reinterpret_cast<const float*>(p.x.data) + p.rows[r] * p.x.stride;
  std::byte* y = p.y.data + r * p.y.stride * dtype_size(p.y.dtype);
  for (int64_t i = threadIdx.x; i < p.y.cols; i += kThreads)
    store_activation(y, p.y.dtype, i, x[i]);
}

LS_LOAD_AT_START(gather);

}  // namespace

void gather_rows(Context& context, const GatherRowsParams& p) {
  validate(p, Contents::kOnDevice);
  if (p.y.rows == 0) return;
  launch_kernel(context, "gather_rows", gather, {static_cast<unsigned>(p.y.rows), kThreads}, p);
}

}  // namespace longshore::kernels::cuda
