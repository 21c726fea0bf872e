#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: rows of y.
__global__ void gather(GatherRowsParams p) {
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
  gather<<<static_cast<unsigned>(p.y.rows), kThreads, 0, context.stream()>>>(p);
  context.launched("gather_rows");
}

}  // namespace longshore::kernels::cuda
