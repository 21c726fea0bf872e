// kv_b_proj taken apart for the absorbed form of latent attention.
#pragma once

#include "base/error.h"
#include "device/placement.h"
#include "model/weights.h"

namespace longshore::model {

// Fills attention.uk_t and uv from kv_b_proj [heads * (nope + v), kv_lora], in host memory and any
// stored type. dtype: kF32 or kBF16.
Result<void> split_kv_b(const WeightView& kv_b, const GlmConfig& config, DType dtype,
                        device::Placement& placement, AttentionWeights& attention);

}  // namespace longshore::model
