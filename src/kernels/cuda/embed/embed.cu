#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: tokens.
__global__ void embed_rows(EmbedParams p) {
  begin_kernel();
  const int64_t t = blockIdx.x;
  auto* y = reinterpret_cast<float*>(p.y.data) + t * p.y.stride;
  const int32_t id = p.ids[t];
  for (int64_t i = threadIdx.x; i < p.y.cols; i += kThreads)
    y[i] = id < 0 ? 0 : load_weight(p.table, id, i);
}

LS_LOAD_AT_START(embed_rows);

}  // namespace

void embed(Context& context, const EmbedParams& p) {
  validate(p, Contents::kOnDevice);
  if (p.y.rows == 0) return;
  launch_kernel(context, "embed", embed_rows, {static_cast<unsigned>(p.y.rows), kThreads}, p);
}

}  // namespace longshore::kernels::cuda
