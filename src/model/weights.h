// The model's weights, bound by name out of a checkpoint: views into its memory, and small owned
// copies where the computation wants another form (norms in fp32, kv_b split into W_UK^T and W_UV).
//
// Ownership: views point into the checkpoint, which outlives these structs. Immutable once bound.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "checkpoint/checkpoint.h"
#include "device/buffer.h"

namespace longshore::model {

// RMSNorm inside the latent projections: transformers' class default, not rms_norm_eps (SGLang and
// vLLM use that).
constexpr float kLatentNormEps = 1e-6F;
// LayerNorm of the index keys.
constexpr float kIndexNormEps = 1e-6F;

struct IndexerWeights {
  WeightView wq_b;                 // [index_heads * index_dim, q_lora]
  WeightView wk;                   // [index_dim, hidden]
  std::vector<float> k_norm;       // [index_dim]
  std::vector<float> k_norm_bias;  // [index_dim]
  WeightView weights_proj;         // [index_heads, hidden]
};

struct AttentionWeights {
  WeightView q_a;                // [q_lora, hidden]
  std::vector<float> q_a_norm;   // [q_lora]
  WeightView q_b;                // [heads * (nope + rope), q_lora]
  WeightView kv_a;               // [kv_lora + rope, hidden]
  std::vector<float> kv_a_norm;  // [kv_lora]
  // kv_b_proj [heads * (nope + v), kv_lora] taken apart and re-typed once at load, because a head's
  // rows straddle the FP8 blocks: fp32 for fp32 activations, else bf16.
  device::Buffer kv_b;
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
  WeightView router;        // [experts, hidden]
  std::vector<float> bias;  // [experts]
  std::optional<FfnWeights> shared;
};

struct LayerWeights {
  std::vector<float> input_norm;  // [hidden]
  AttentionWeights attention;
  std::vector<float> ffn_norm;  // [hidden], post_attention_layernorm
  std::optional<FfnWeights> dense;
  std::optional<MoeWeights> moe;
};

struct ModelWeights {
  WeightView embed;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  std::vector<float> norm;  // [hidden]
  WeightView lm_head;       // [vocab, hidden]
};

// The MTP layer, which shares embed and lm_head with the main model.
struct MtpWeights {
  std::vector<float> enorm;  // [hidden]
  std::vector<float> hnorm;  // [hidden]
  WeightView eh_proj;        // [hidden, 2 * hidden]
  LayerWeights layer;
  std::vector<float> head_norm;  // [hidden], shared_head.norm
};

// kv_b_dtype: kF32 or kBF16. Errors: kModel naming the tensor; kMemory.
Result<ModelWeights> bind_model_weights(const Checkpoint& checkpoint, DType kv_b_dtype);
Result<MtpWeights> bind_mtp_weights(const Checkpoint& checkpoint, DType kv_b_dtype);

}  // namespace longshore::model
