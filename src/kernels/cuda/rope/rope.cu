#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostPairs = 512;
constexpr int64_t kHeads = 4;  // of a block

// Grid: (tokens, groups of kHeads heads). A thread owns whole pairs, so that x and y may be the
// same.
__global__ void rope_rows(RopeParams p) {
  begin_kernel();
  __shared__ float cosines[kMostPairs];
  __shared__ float sines[kMostPairs];
  const int64_t t = blockIdx.x;
  const int64_t pairs = p.rope_dim / 2;
  for (int64_t i = threadIdx.x; i < pairs; i += kThreads) {
    const float angle = __fmul_rn(static_cast<float>(p.positions[t]), p.inv_freq[i]);
    cosines[i] = cosf(angle);
    sines[i] = sinf(angle);
  }
  __syncthreads();
  const float* x = reinterpret_cast<const float*>(p.x.data) + t * p.x.stride;
  std::byte* y = p.y.data + t * p.y.stride * dtype_size(p.y.dtype);
  // A head's units: its pairs, then its other columns one by one.
  const int64_t units = p.head_dim - pairs;
  const int64_t first = blockIdx.y * kHeads;
  const int64_t heads = min(kHeads, p.heads - first);
  for (int64_t n = threadIdx.x; n < heads * units; n += kThreads) {
    const int64_t column = (first + n / units) * p.head_dim;
    const int64_t unit = n % units;
    if (unit < pairs) {
      const int64_t i = column + p.rope_offset + 2 * unit;
      const float even = x[i];
      const float odd = x[i + 1];
      store_activation(y, p.y.dtype, i, even * cosines[unit] - odd * sines[unit]);
      store_activation(y, p.y.dtype, i + 1, odd * cosines[unit] + even * sines[unit]);
    } else {
      const int64_t other = unit - pairs;
      const int64_t i = column + other + (other < p.rope_offset ? 0 : p.rope_dim);
      store_activation(y, p.y.dtype, i, x[i]);
    }
  }
}

LS_LOAD_AT_START(rope_rows);

}  // namespace

void rope(Context& context, const RopeParams& p) {
  validate(p);
  LS_CHECK_MSG(p.rope_dim / 2 <= kMostPairs, "{} rotated columns", p.rope_dim);
  if (p.x.rows == 0) return;
  launch_kernel(
      context, "rope", rope_rows,
      {dim3(static_cast<unsigned>(p.x.rows), static_cast<unsigned>(ceil_div(p.heads, kHeads))),
       kThreads},
      p);
}

}  // namespace longshore::kernels::cuda
