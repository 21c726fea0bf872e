#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/experts/sort.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 1024;  // as many warps as a warp has lanes

// The sum over lanes below this one; *total gets that over all.
__device__ int below(int value, int* total) {
  const int lane = threadIdx.x % kWarp;
  int sum = value;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  *total = __shfl_sync(0xffffffffu, sum, kWarp - 1);
  return sum - value;
}

// One block. Dynamic shared memory: [num_experts] counts, then each expert's next place. The places
// within an expert are in no order: results do not depend on it.
__global__ void __launch_bounds__(kThreads)
    sort(const int32_t* ids, int routes, int experts, int tile, SortedRoutes out) {
  begin_kernel();
  extern __shared__ int next[];
  __shared__ int warp_routes[kThreads / kWarp];
  __shared__ int warp_tiles[kThreads / kWarp];
  const int thread = threadIdx.x;
  for (int e = thread; e < experts; e += kThreads) next[e] = 0;
  // The first route of each thread is read once.
  const int own = thread < routes ? ids[thread] : -1;
  const auto for_each_route = [&](const auto& body) {
    if (own >= 0) body(thread, own);
    for (int r = thread + kThreads; r < routes; r += kThreads) {
      if (ids[r] >= 0) body(r, ids[r]);
    }
  };
  __syncthreads();
  for_each_route([&](int, int expert) { atomicAdd(&next[expert], 1); });
  __syncthreads();
  int first_route = 0;
  int first_item = 0;
  for (int group = 0; group < experts; group += kThreads) {
    const int e = group + thread;
    const int count = e < experts ? next[e] : 0;
    const int tiles = (count + tile - 1) / tile;
    int all_routes = 0;
    int all_tiles = 0;
    int at = first_route + below(count, &all_routes);
    int item = first_item + below(tiles, &all_tiles);
    if (thread % kWarp == 0) {
      warp_routes[thread / kWarp] = all_routes;
      warp_tiles[thread / kWarp] = all_tiles;
    }
    __syncthreads();
    // Every warp adds up those before it, and all.
    const int lane = thread % kWarp;
    int group_routes = 0;
    int group_tiles = 0;
    const int routes_before = below(warp_routes[lane], &group_routes);
    const int tiles_before = below(warp_tiles[lane], &group_tiles);
    at += __shfl_sync(0xffffffffu, routes_before, thread / kWarp);
    item += __shfl_sync(0xffffffffu, tiles_before, thread / kWarp);
    for (int i = 0; i < tiles; ++i) {
      out.items[item + i] = {e, at + i * tile, min(tile, count - i * tile)};
    }
    if (e < experts) next[e] = at;
    first_route += group_routes;
    first_item += group_tiles;
    __syncthreads();
  }
  if (thread == 0) *out.item_count = first_item;
  for_each_route([&](int r, int expert) { out.routes[atomicAdd(&next[expert], 1)] = r; });
}

constexpr int kSumThreads = 128;
constexpr int kTogether = 8;  // routes whose rows are read at once

// Grid: (columns / kSumThreads, tokens).
__global__ void add_routes(ExpertsParams p, const float* routed) {
  begin_kernel();
  const int64_t t = blockIdx.y;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (i >= p.y.cols) return;
  float* y = reinterpret_cast<float*>(p.y.data) + t * p.y.stride + i;
  float sum = *y;
  const int64_t end = (t + 1) * p.top_k;
  for (int64_t first = t * p.top_k; first < end; first += kTogether) {
    float value[kTogether];
    float weight[kTogether];
    bool counts[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      counts[j] = first + j < end && p.ids[first + j] >= 0;
      weight[j] = first + j < end ? p.weights[first + j] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      value[j] = counts[j] ? routed[(first + j) * p.y.cols + i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (counts[j]) sum = fmaf(weight[j], value[j], sum);
    }
  }
  *y = sum;
}

int64_t most_items(int64_t routes, int64_t experts, int64_t tile) {
  return std::min(routes, std::min(experts, routes) + routes / tile);
}

LS_LOAD_AT_START(sort);

}  // namespace

int64_t sorted_routes_bytes(int64_t routes, int64_t num_experts, int64_t tile) {
  const auto item = static_cast<int64_t>(sizeof(ExpertItem));
  return routes * 4 + most_items(routes, num_experts, tile) * item + 4 + 3 * 256;
}

SortedRoutes sort_routes(Context& context, const ExpertsParams& p, int64_t tile) {
  const int64_t routes = p.x.rows * p.top_k;
  LS_CHECK_MSG(p.num_experts <= kMostExperts, "{} experts", p.num_experts);
  SortedRoutes sorted;
  sorted.item_limit = most_items(routes, p.num_experts, tile);
  sorted.routes = context.scratch<int32_t>(routes);
  sorted.items = context.scratch<ExpertItem>(sorted.item_limit);
  sorted.item_count = context.scratch<int32_t>(1);
  launch_kernel(context, "sorting routes", sort,
                {1, kThreads, static_cast<size_t>(p.num_experts) * sizeof(int)}, p.ids,
                static_cast<int>(routes), static_cast<int>(p.num_experts), static_cast<int>(tile),
                sorted);
  return sorted;
}

void add_routed(Context& context, const ExpertsParams& p, const float* routed) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.y.cols, kSumThreads)),
                  static_cast<unsigned>(p.x.rows));
  launch_kernel(context, "adding experts", add_routes, {grid, kSumThreads}, p, routed);
}

}  // namespace longshore::kernels::cuda
