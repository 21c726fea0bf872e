#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarpsPerBlock = 4;

// A place in the order of choice: higher score first, then lower index.
struct Place {
  float choice;
  int expert;
};

__device__ bool before(const Place& a, const Place& b) {
  return a.choice > b.choice || (a.choice == b.choice && a.expert < b.expert);
}

__device__ Place warp_first(Place best) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const Place other{__shfl_xor_sync(0xffffffffu, best.choice, lanes),
                      __shfl_xor_sync(0xffffffffu, best.expert, lanes)};
    if (before(other, best)) best = other;
  }
  return best;
}

// A warp per token. Dynamic shared memory: gates and choices [kWarpsPerBlock, 2, experts].
__global__ void route(RouterParams p) {
  begin_kernel();
  extern __shared__ float shared[];
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / kWarp;
  if (t >= p.logits.rows) return;
  const int lane = threadIdx.x % kWarp;
  const int experts = static_cast<int>(p.logits.cols);
  float* gates = shared + threadIdx.x / kWarp * 2 * experts;
  float* choices = gates + experts;
  const float* logits = reinterpret_cast<const float*>(p.logits.data) + t * p.logits.stride;
  for (int e = lane; e < experts; e += kWarp) {
    gates[e] = 1.0f / (1.0f + expf(-logits[e]));
    const float choice = gates[e] + p.bias[e];
    choices[e] = isnan(choice) ? -INFINITY : choice;  // last, and still in a total order
  }
  __syncwarp();
  int32_t* ids = p.ids + t * p.routes() + p.first_chosen();
  float* weights = p.weights + t * p.routes() + p.first_chosen();
  Place last{INFINITY, -1};
  float sum = 0;
  for (int64_t i = 0; i < p.top_k; ++i) {
    Place best{-INFINITY, experts};
    for (int e = lane; e < experts; e += kWarp) {
      const Place place{choices[e], e};
      if (before(last, place) && before(place, best)) best = place;
    }
    last = warp_first(best);
    sum += gates[last.expert];
    if (lane == 0) ids[i] = last.expert;
  }
  __syncwarp();
  for (int64_t i = lane; i < p.top_k; i += kWarp) {
    float weight = gates[ids[i]];
    if (p.normalise) weight /= sum + 1e-20f;
    weights[i] = weight * p.scale;
  }
  if (p.joined < 0 || lane != 0) return;
  ids[-1] = p.joined;
  weights[-1] = 1;
}

LS_LOAD_AT_START(route);

}  // namespace

void router(Context& context, const RouterParams& p) {
  validate(p);
  if (p.logits.rows == 0) return;
  const int64_t shared = kWarpsPerBlock * 2 * p.logits.cols * static_cast<int64_t>(sizeof(float));
  LS_CHECK_MSG(shared <= 48 << 10, "{} experts", p.logits.cols);
  launch_kernel(context, "router", route,
                {static_cast<unsigned>(ceil_div(p.logits.rows, kWarpsPerBlock)),
                 kWarpsPerBlock * kWarp, static_cast<size_t>(shared)},
                p);
}

}  // namespace longshore::kernels::cuda
