// config.json of a glm_moe_dsa checkpoint, every field validated. Field names and meanings:
// transformers 5.17's GlmMoeDsaConfig. A value that changes the mathematics and is not supported is
// refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace longshore {

// IndexShare (GLM-5.2): a shared layer has no indexer and reuses the choice of the nearest full
// layer before it.
enum class IndexerType : uint8_t { kFull, kShared };

struct GlmConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;             // num_hidden_layers, without MTP
  int64_t first_k_dense = 0;          // first_k_dense_replace: layers [0, k) have a dense MLP
  int64_t intermediate_size = 0;      // dense MLP
  int64_t moe_intermediate_size = 0;  // one expert
  int64_t num_experts = 0;            // n_routed_experts
  int64_t experts_per_token = 0;      // num_experts_per_tok
  int64_t num_shared_experts = 0;  // n_shared_experts, run as one FFN of n x moe_intermediate_size
  float routed_scaling_factor = 1;
  bool norm_topk_prob = true;

  int64_t num_heads = 0;  // num_attention_heads
  int64_t q_lora_rank = 0;
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  float rope_theta = 0;  // rope_parameters.rope_theta (or rope_theta at the top level)

  int64_t index_num_heads = 0;  // index_n_heads
  int64_t index_head_dim = 0;
  int64_t index_top_k = 0;  // index_topk
  std::vector<IndexerType>
      indexer_types;  // [num_layers]; all full where the file has no IndexShare key

  int64_t num_mtp_layers = 0;  // num_nextn_predict_layers: 0 or 1
  float rms_norm_eps = 1e-5F;
  int64_t max_positions = 0;  // max_position_embeddings
  bool tie_word_embeddings = false;
  std::vector<int32_t> eos_token_ids;  // eos_token_id: a number or a list; empty when absent

  int64_t quant_block_rows = 128;  // quantization_config.weight_block_size
  int64_t quant_block_cols = 128;

  // Keys of the file that longshore does not know, for a warning: each may or may not change the
  // mathematics.
  std::vector<std::string> unknown_keys;

  [[nodiscard]] int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  [[nodiscard]] int64_t latent_width() const { return kv_lora_rank + qk_rope_head_dim; }
  [[nodiscard]] bool is_moe(int64_t layer) const { return layer >= first_k_dense; }
  // The MTP layer is layer num_layers; it always has an indexer.
  [[nodiscard]] bool has_indexer(int64_t layer) const {
    return layer >= num_layers || indexer_types[static_cast<size_t>(layer)] == IndexerType::kFull;
  }
};

// text: the file's content; where: its path, for messages. Errors (kModel) name the file, the key
// and the remedy.
Result<GlmConfig> parse_config(const std::string& text, const std::string& where);
Result<GlmConfig> load_config(const std::string& model_dir);

}  // namespace longshore
