// Routes in the order of their experts, and the pieces of work that this makes.
#pragma once

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// Up to a tile's number of routes to one expert.
struct ExpertItem {
  int32_t expert;
  int32_t first;  // in SortedRoutes::routes
  int32_t count;
};

// In scratch memory. How many items and routes there are only the device knows: a launch takes the
// most there can be, and blocks without work end.
struct SortedRoutes {
  int32_t* routes = nullptr;    // [item_limit's tokens] route ids by expert
  ExpertItem* items = nullptr;  // [item_limit]
  int32_t* item_count = nullptr;
  int64_t item_limit = 0;
};

[[nodiscard]] int64_t sorted_routes_bytes(int64_t routes, int64_t num_experts, int64_t tile);

// Of the routes with an expert. num_experts <= kMostExperts.
constexpr int64_t kMostExperts = 4096;
[[nodiscard]] SortedRoutes sort_routes(Context& context, const ExpertsParams& params, int64_t tile);

// y[t] += sum over i of weights[t, i] * routed[t, i], in order of i; routed [routes, hidden] fp32.
void add_routed(Context& context, const ExpertsParams& params, const float* routed);

}  // namespace longshore::kernels::cuda
