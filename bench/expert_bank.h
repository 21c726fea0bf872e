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
  static constexpr int64_t kExpertBytes = 3 * kHidden * kIntermediate;  // without scales
  static constexpr double kRouteFlops = 2.0 * kExpertBytes;

  // Random E4M3 codes without NaN, random scales. The views point into the bank. kMemory.
  static Result<ExpertBank> create(ThreadPool& pool, int64_t experts, uint64_t seed);

  [[nodiscard]] const std::vector<kernels::ExpertView>& views() const { return views_; }
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(views_.size()); }
  // All weights, [size(), kExpertBytes].
  [[nodiscard]] const std::byte* data() const { return codes_.data(); }

 private:
  device::Buffer codes_;
  std::vector<float> scales_;
  std::vector<kernels::ExpertView> views_;
};

}  // namespace longshore::bench
