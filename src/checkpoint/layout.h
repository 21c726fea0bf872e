// Every tensor that a config demands, with its shape. Names as in the hub's GLM-5.1 checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/config.h"

namespace longshore {

inline constexpr std::string_view kScaleSuffix = "_scale_inv";

enum class TensorRole : uint8_t {
  kLinear,     // [out, in], FP8 with scales in an FP8 checkpoint
  kMatrix,     // [out, in], which the publisher keeps in BF16
  kNorm,       // [size], around 1
  kNormBias,   // [size], around 0
  kRouterBias  // [experts], fp32
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::kLinear;
  bool optional = false;  // may be absent; known but not needed

  [[nodiscard]] bool is_matrix() const { return shape.size() == 2; }
};

// In the order of the forward pass; the MTP layer, where the config has one, comes last. Scales are
// not listed: a weight has one iff it is FP8.
std::vector<TensorSpec> checkpoint_layout(const GlmConfig& config);

}  // namespace longshore
