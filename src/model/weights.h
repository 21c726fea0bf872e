// The model's weights, bound by name out of a checkpoint: matrices as they lie there, and small
// copies where the computation wants another form (norms in fp32, kv_b split into W_UK^T and W_UV).
//
// Ownership: everything is in the backend's memory. Copies, and on a device the matrices too, lie
// in the structs' `memory`; on the host matrices are views into the checkpoint, which outlives
// them. Immutable once bound.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "checkpoint/checkpoint.h"
#include "device/buffer.h"
#include "kernels/backend.h"

namespace longshore::model {

// RMSNorm inside the latent projections: transformers' class default, not rms_norm_eps (SGLang and
// vLLM use that).
constexpr float kLatentNormEps = 1e-6F;
// LayerNorm of the index keys.
constexpr float kIndexNormEps = 1e-6F;

struct IndexerWeights {
  WeightView wq_b;                     // [index_heads * index_dim, q_lora]
  WeightView wk;                       // [index_dim, hidden]
  const float* k_norm = nullptr;       // [index_dim]
  const float* k_norm_bias = nullptr;  // [index_dim]
  WeightView weights_proj;             // [index_heads, hidden]
};

struct AttentionWeights {
  WeightView q_a;                    // [q_lora, hidden]
  const float* q_a_norm = nullptr;   // [q_lora]
  WeightView q_b;                    // [heads * (nope + rope), q_lora]
  WeightView kv_a;                   // [kv_lora + rope, hidden]
  const float* kv_a_norm = nullptr;  // [kv_lora]
  // kv_b_proj [heads * (nope + v), kv_lora] taken apart and re-typed once at load, because a head's
  // rows straddle the FP8 blocks: fp32 for fp32 activations, else bf16.
  WeightView uk_t;  // [heads * kv_lora, nope]: per head W_UK^T, so that q_c[h] = uk_t[h] q_nope[h]
  WeightView uv;    // [heads * v, kv_lora]
  WeightView o;     // [hidden, heads * v]
  std::optional<IndexerWeights> indexer;  // absent in shared layers
};

struct FfnWeights {
  WeightView gate;  // [n, hidden]
  WeightView up;    // [n, hidden]
  WeightView down;  // [hidden, n]
};

struct MoeWeights {
  WeightView router;            // [experts, hidden]
  const float* bias = nullptr;  // [experts]
  std::optional<FfnWeights> shared;
};

struct LayerWeights {
  const float* input_norm = nullptr;  // [hidden]
  AttentionWeights attention;
  const float* ffn_norm = nullptr;  // [hidden], post_attention_layernorm
  std::optional<FfnWeights> dense;
  std::optional<MoeWeights> moe;
};

struct ModelWeights {
  device::Buffer memory;
  const float* inv_freq = nullptr;  // [qk_rope_head_dim / 2]
  WeightView embed;                 // [vocab, hidden]
  std::vector<LayerWeights> layers;
  const float* norm = nullptr;  // [hidden]
  WeightView lm_head;           // [vocab, hidden]
};

// The MTP layer, which shares embed and lm_head with the main model.
struct MtpWeights {
  device::Buffer memory;
  const float* inv_freq = nullptr;  // [qk_rope_head_dim / 2]
  const float* enorm = nullptr;     // [hidden]
  const float* hnorm = nullptr;     // [hidden]
  WeightView eh_proj;               // [hidden, 2 * hidden]
  LayerWeights layer;
  const float* head_norm = nullptr;  // [hidden], shared_head.norm
};

// Into the backend's memory. Errors: kModel naming the tensor; kMemory; kDevice.
Result<ModelWeights> load_model_weights(const Checkpoint& checkpoint, kernels::Backend& backend);
Result<MtpWeights> load_mtp_weights(const Checkpoint& checkpoint, kernels::Backend& backend);
// What they take of it. kModel.
Result<int64_t> model_weight_bytes(const Checkpoint& checkpoint, kernels::Backend& backend);
Result<int64_t> mtp_weight_bytes(const Checkpoint& checkpoint, kernels::Backend& backend);

// Of the MoE layers in order; empty where one has none.
[[nodiscard]] std::vector<kernels::ExpertView> shared_experts(std::span<const LayerWeights> layers);

// inv_freq[i] = theta^(-2i / rope_dim), every operation in fp32 as transformers computes it.
[[nodiscard]] std::vector<float> rope_inv_freq(float theta, int64_t rope_dim);

}  // namespace longshore::model
