// Tokens with random activations and made-up routes for a bank of experts.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "bench/expert_bank.h"
#include "kernels/format/bf16.h"
#include "kernels/ops_moe.h"

namespace longshore::bench {

constexpr int64_t kTopK = 8;

// A batch of tokens with their routes, and the result.
struct ExpertBatch {
  int64_t tokens = 0;
  int64_t top_k = 0;
  std::vector<uint16_t> x;     // [tokens, hidden] bf16
  std::vector<int32_t> ids;    // [tokens, top_k]
  std::vector<float> weights;  // [tokens, top_k]
  std::vector<float> y;        // [tokens, hidden]

  ExpertBatch(int64_t count, int64_t routes, uint64_t seed) : tokens(count), top_k(routes) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    x.resize(static_cast<size_t>(tokens * ExpertBank::kHidden));
    for (uint16_t& value : x) value = kernels::bf16_from_float(normal(random));
    ids.resize(static_cast<size_t>(tokens * top_k));
    weights.resize(ids.size());
    for (float& weight : weights) weight = 0.1F + 0.3F * std::fabs(normal(random));
    y.resize(x.size());
  }

  // Every token takes the experts from `first` on.
  void route_together(int64_t first, int64_t experts) {
    for (int64_t r = 0; r < tokens * top_k; ++r) {
      ids[static_cast<size_t>(r)] = static_cast<int32_t>((first + r % top_k) % experts);
    }
  }
  // Every token takes distinct experts, all equally likely.
  void route_uniformly(int64_t experts, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<int32_t> all(static_cast<size_t>(experts));
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    for (int64_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < static_cast<size_t>(top_k); ++i) {
        std::swap(all[i], all[i + random() % (all.size() - i)]);
        ids[static_cast<size_t>(t * top_k) + i] = all[i];
      }
    }
  }

  [[nodiscard]] kernels::ExpertsParams params(const ExpertBank& bank) {
    kernels::ExpertsParams p;
    p.x = {reinterpret_cast<const std::byte*>(x.data()), DType::kBF16, tokens, ExpertBank::kHidden,
           ExpertBank::kHidden};
    p.ids = ids.data();
    p.weights = weights.data();
    p.top_k = top_k;
    p.experts = bank.views().data();
    p.num_experts = bank.size();
    p.shape = kernels::shape_of(bank.views()[0]);
    p.y = {reinterpret_cast<std::byte*>(y.data()), DType::kF32, tokens, ExpertBank::kHidden,
           ExpertBank::kHidden};
    return p;
  }
};

}  // namespace longshore::bench
