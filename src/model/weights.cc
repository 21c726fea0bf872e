#include "model/weights.h"

#include <string>

#include <fmt/format.h>

#include "model/kv_b.h"

namespace longshore::model {
namespace {

Result<IndexerWeights> bind_indexer(const Checkpoint& checkpoint, const std::string& prefix) {
  const GlmConfig& c = checkpoint.config();
  IndexerWeights w;
  LS_TRY(w.wq_b, checkpoint.weight(prefix + "wq_b.weight", c.index_num_heads * c.index_head_dim,
                                   c.q_lora_rank));
  LS_TRY(w.wk, checkpoint.weight(prefix + "wk.weight", c.index_head_dim, c.hidden_size));
  LS_TRY(w.k_norm, checkpoint.vector(prefix + "k_norm.weight", c.index_head_dim));
  LS_TRY(w.k_norm_bias, checkpoint.vector(prefix + "k_norm.bias", c.index_head_dim));
  LS_TRY(w.weights_proj,
         checkpoint.weight(prefix + "weights_proj.weight", c.index_num_heads, c.hidden_size));
  return w;
}

Result<AttentionWeights> bind_attention(const Checkpoint& checkpoint, const std::string& prefix,
                                        bool indexer, DType kv_b_dtype) {
  const GlmConfig& c = checkpoint.config();
  AttentionWeights w;
  LS_TRY(w.q_a, checkpoint.weight(prefix + "q_a_proj.weight", c.q_lora_rank, c.hidden_size));
  LS_TRY(w.q_a_norm, checkpoint.vector(prefix + "q_a_layernorm.weight", c.q_lora_rank));
  LS_TRY(w.q_b, checkpoint.weight(prefix + "q_b_proj.weight", c.num_heads * c.qk_head_dim(),
                                  c.q_lora_rank));
  LS_TRY(w.kv_a,
         checkpoint.weight(prefix + "kv_a_proj_with_mqa.weight", c.latent_width(), c.hidden_size));
  LS_TRY(w.kv_a_norm, checkpoint.vector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank));
  LS_TRY(const WeightView kv_b,
         checkpoint.weight(prefix + "kv_b_proj.weight",
                           c.num_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank));
  LS_TRY_VOID(split_kv_b(kv_b, c, kv_b_dtype, w));
  LS_TRY(w.o,
         checkpoint.weight(prefix + "o_proj.weight", c.hidden_size, c.num_heads * c.v_head_dim));
  if (indexer) {
    LS_TRY(w.indexer, bind_indexer(checkpoint, prefix + "indexer."));
  }
  return w;
}

Result<FfnWeights> bind_ffn(const Checkpoint& checkpoint, const std::string& prefix,
                            int64_t width) {
  const GlmConfig& c = checkpoint.config();
  FfnWeights w;
  LS_TRY(w.gate, checkpoint.weight(prefix + "gate_proj.weight", width, c.hidden_size));
  LS_TRY(w.up, checkpoint.weight(prefix + "up_proj.weight", width, c.hidden_size));
  LS_TRY(w.down, checkpoint.weight(prefix + "down_proj.weight", c.hidden_size, width));
  return w;
}

Result<MoeWeights> bind_moe(const Checkpoint& checkpoint, const std::string& prefix) {
  const GlmConfig& c = checkpoint.config();
  MoeWeights w;
  LS_TRY(w.router, checkpoint.weight(prefix + "gate.weight", c.num_experts, c.hidden_size));
  LS_TRY(w.bias, checkpoint.vector(prefix + "gate.e_score_correction_bias", c.num_experts));
  if (c.num_shared_experts > 0) {
    LS_TRY(w.shared, bind_ffn(checkpoint, prefix + "shared_experts.",
                              c.num_shared_experts * c.moe_intermediate_size));
  }
  return w;
}

Result<LayerWeights> bind_layer(const Checkpoint& checkpoint, int64_t layer, DType kv_b_dtype) {
  const GlmConfig& c = checkpoint.config();
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  LayerWeights w;
  LS_TRY(w.input_norm, checkpoint.vector(prefix + "input_layernorm.weight", c.hidden_size));
  LS_TRY(w.attention,
         bind_attention(checkpoint, prefix + "self_attn.", c.has_indexer(layer), kv_b_dtype));
  LS_TRY(w.ffn_norm, checkpoint.vector(prefix + "post_attention_layernorm.weight", c.hidden_size));
  if (c.is_moe(layer)) {
    LS_TRY(w.moe, bind_moe(checkpoint, prefix + "mlp."));
  } else {
    LS_TRY(w.dense, bind_ffn(checkpoint, prefix + "mlp.", c.intermediate_size));
  }
  return w;
}

}  // namespace

Result<ModelWeights> bind_model_weights(const Checkpoint& checkpoint, DType kv_b_dtype) {
  const GlmConfig& c = checkpoint.config();
  ModelWeights w;
  LS_TRY(w.embed, checkpoint.weight("model.embed_tokens.weight", c.vocab_size, c.hidden_size));
  w.layers.reserve(static_cast<size_t>(c.num_layers));
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    LS_TRY(LayerWeights bound, bind_layer(checkpoint, layer, kv_b_dtype));
    w.layers.push_back(std::move(bound));
  }
  LS_TRY(w.norm, checkpoint.vector("model.norm.weight", c.hidden_size));
  if (c.tie_word_embeddings) {
    w.lm_head = w.embed;
  } else {
    LS_TRY(w.lm_head, checkpoint.weight("lm_head.weight", c.vocab_size, c.hidden_size));
  }
  return w;
}

Result<MtpWeights> bind_mtp_weights(const Checkpoint& checkpoint, DType kv_b_dtype) {
  const GlmConfig& c = checkpoint.config();
  LS_CHECK_MSG(c.num_mtp_layers == 1, "{} has no MTP layer", checkpoint.where());
  const std::string prefix = fmt::format("model.layers.{}.", c.num_layers);
  MtpWeights w;
  LS_TRY(w.enorm, checkpoint.vector(prefix + "enorm.weight", c.hidden_size));
  LS_TRY(w.hnorm, checkpoint.vector(prefix + "hnorm.weight", c.hidden_size));
  LS_TRY(w.eh_proj, checkpoint.weight(prefix + "eh_proj.weight", c.hidden_size, 2 * c.hidden_size));
  LS_TRY(w.layer, bind_layer(checkpoint, c.num_layers, kv_b_dtype));
  LS_TRY(w.head_norm, checkpoint.vector(prefix + "shared_head.norm.weight", c.hidden_size));
  return w;
}

}  // namespace longshore::model
