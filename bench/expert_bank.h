// One MoE layer's experts in GLM-5.1's true shapes with random weights, for measuring.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "device/buffer.h"
#include "kernels/ops_moe.h"

namespace longshore::bench {

class ExpertBank {
 public:
  static constexpr int64_t kHidden = 6144;
  static constexpr int64_t kIntermediate = 2048;
  static constexpr int64_t kExpertWeights = 3 * kHidden * kIntermediate;
  static constexpr int64_t kExpertBytes = kExpertWeights;  // FP8, without scales
  static constexpr double kRouteFlops = 2.0 * kExpertWeights;

  // dtype kF8E4M3: random codes without NaN, random scales; kBF16: the same codes' values at one
  // scale. The views point into the bank. kMemory.
  static Result<ExpertBank> create(ThreadPool& pool, int64_t experts, uint64_t seed,
                                   DType dtype = DType::kF8E4M3);

  [[nodiscard]] const std::vector<kernels::ExpertView>& views() const { return views_; }
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(views_.size()); }
  // All weights, [size(), kExpertWeights] of the bank's dtype.
  [[nodiscard]] const std::byte* data() const { return weights_.data(); }

 private:
  device::Buffer weights_;
  std::vector<float> scales_;
  std::vector<kernels::ExpertView> views_;
};

}  // namespace longshore::bench
