#include "model/weights.h"

#include <cmath>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "device/placement.h"
#include "model/kv_b.h"

namespace longshore::model {
namespace {

// A checkpoint's tensors on their way into the backend's memory.
struct Source {
  const Checkpoint& checkpoint;
  device::Placement& placement;
  DType kv_b_dtype;

  [[nodiscard]] const GlmConfig& config() const { return checkpoint.config(); }
  [[nodiscard]] Result<WeightView> weight(const std::string& name, int64_t out, int64_t in) const {
    LS_TRY(const WeightView view, checkpoint.weight(name, out, in));
    return placement.weight(view);
  }
  [[nodiscard]] Result<const float*> vector(const std::string& name, int64_t size) const {
    LS_TRY(const std::vector<float> values, checkpoint.vector(name, size));
    return placement.floats(values);
  }
  [[nodiscard]] Result<const float*> inv_freq() const {
    return placement.floats(rope_inv_freq(config().rope_theta, config().qk_rope_head_dim));
  }
};

Result<IndexerWeights> bind_indexer(const Source& source, const std::string& prefix) {
  const GlmConfig& c = source.config();
  IndexerWeights w;
  LS_TRY(w.wq_b, source.weight(prefix + "wq_b.weight", c.index_num_heads * c.index_head_dim,
                               c.q_lora_rank));
  LS_TRY(w.wk, source.weight(prefix + "wk.weight", c.index_head_dim, c.hidden_size));
  LS_TRY(w.k_norm, source.vector(prefix + "k_norm.weight", c.index_head_dim));
  LS_TRY(w.k_norm_bias, source.vector(prefix + "k_norm.bias", c.index_head_dim));
  LS_TRY(w.weights_proj,
         source.weight(prefix + "weights_proj.weight", c.index_num_heads, c.hidden_size));
  return w;
}

Result<AttentionWeights> bind_attention(const Source& source, const std::string& prefix,
                                        bool indexer) {
  const GlmConfig& c = source.config();
  AttentionWeights w;
  LS_TRY(w.q_a, source.weight(prefix + "q_a_proj.weight", c.q_lora_rank, c.hidden_size));
  LS_TRY(w.q_a_norm, source.vector(prefix + "q_a_layernorm.weight", c.q_lora_rank));
  LS_TRY(w.q_b,
         source.weight(prefix + "q_b_proj.weight", c.num_heads * c.qk_head_dim(), c.q_lora_rank));
  LS_TRY(w.kv_a,
         source.weight(prefix + "kv_a_proj_with_mqa.weight", c.latent_width(), c.hidden_size));
  LS_TRY(w.kv_a_norm, source.vector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank));
  LS_TRY(
      const WeightView kv_b,
      source.checkpoint.weight(prefix + "kv_b_proj.weight",
                               c.num_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank));
  LS_TRY_VOID(split_kv_b(kv_b, c, source.kv_b_dtype, source.placement, w));
  LS_TRY(w.o, source.weight(prefix + "o_proj.weight", c.hidden_size, c.num_heads * c.v_head_dim));
  if (indexer) {
    LS_TRY(w.indexer, bind_indexer(source, prefix + "indexer."));
  }
  return w;
}

Result<FfnWeights> bind_ffn(const Source& source, const std::string& prefix, int64_t width) {
  const GlmConfig& c = source.config();
  FfnWeights w;
  LS_TRY(w.gate, source.weight(prefix + "gate_proj.weight", width, c.hidden_size));
  LS_TRY(w.up, source.weight(prefix + "up_proj.weight", width, c.hidden_size));
  LS_TRY(w.down, source.weight(prefix + "down_proj.weight", c.hidden_size, width));
  return w;
}

Result<MoeWeights> bind_moe(const Source& source, const std::string& prefix) {
  const GlmConfig& c = source.config();
  MoeWeights w;
  LS_TRY(w.router, source.weight(prefix + "gate.weight", c.num_experts, c.hidden_size));
  LS_TRY(w.bias, source.vector(prefix + "gate.e_score_correction_bias", c.num_experts));
  if (c.num_shared_experts > 0) {
    LS_TRY(w.shared, bind_ffn(source, prefix + "shared_experts.",
                              c.num_shared_experts * c.moe_intermediate_size));
  }
  return w;
}

Result<LayerWeights> bind_layer(const Source& source, int64_t layer) {
  const GlmConfig& c = source.config();
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  LayerWeights w;
  LS_TRY(w.input_norm, source.vector(prefix + "input_layernorm.weight", c.hidden_size));
  LS_TRY(w.attention, bind_attention(source, prefix + "self_attn.", c.has_indexer(layer)));
  LS_TRY(w.ffn_norm, source.vector(prefix + "post_attention_layernorm.weight", c.hidden_size));
  if (c.is_moe(layer)) {
    LS_TRY(w.moe, bind_moe(source, prefix + "mlp."));
  } else {
    LS_TRY(w.dense, bind_ffn(source, prefix + "mlp.", c.intermediate_size));
  }
  return w;
}

Result<ModelWeights> bind_model(const Source& source) {
  const GlmConfig& c = source.config();
  ModelWeights w;
  LS_TRY(w.inv_freq, source.inv_freq());
  LS_TRY(w.embed, source.weight("model.embed_tokens.weight", c.vocab_size, c.hidden_size));
  w.layers.reserve(static_cast<size_t>(c.num_layers));
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    LS_TRY(LayerWeights bound, bind_layer(source, layer));
    w.layers.push_back(std::move(bound));
  }
  LS_TRY(w.norm, source.vector("model.norm.weight", c.hidden_size));
  if (c.tie_word_embeddings) {
    w.lm_head = w.embed;
  } else {
    LS_TRY(w.lm_head, source.weight("lm_head.weight", c.vocab_size, c.hidden_size));
  }
  return w;
}

Result<MtpWeights> bind_mtp(const Source& source) {
  const GlmConfig& c = source.config();
  LS_CHECK_MSG(c.num_mtp_layers == 1, "{} has no MTP layer", source.checkpoint.where());
  const std::string prefix = fmt::format("model.layers.{}.", c.num_layers);
  MtpWeights w;
  LS_TRY(w.inv_freq, source.inv_freq());
  LS_TRY(w.enorm, source.vector(prefix + "enorm.weight", c.hidden_size));
  LS_TRY(w.hnorm, source.vector(prefix + "hnorm.weight", c.hidden_size));
  LS_TRY(w.eh_proj, source.weight(prefix + "eh_proj.weight", c.hidden_size, 2 * c.hidden_size));
  LS_TRY(w.layer, bind_layer(source, c.num_layers));
  LS_TRY(w.head_norm, source.vector(prefix + "shared_head.norm.weight", c.hidden_size));
  return w;
}

template <typename Bind>
Result<int64_t> count_bytes(const Checkpoint& checkpoint, kernels::Backend& backend, Bind bind) {
  auto placement = device::Placement::count(backend.memory());
  LS_TRY_VOID(bind(Source{checkpoint, placement, backend.activation_dtype()}));
  return placement.bytes();
}

template <typename Bind>
auto load(const Checkpoint& checkpoint, kernels::Backend& backend, Bind bind, const char* what)
    -> decltype(bind(std::declval<const Source&>())) {
  LS_TRY(const int64_t bytes, count_bytes(checkpoint, backend, bind));
  LS_TRY(auto placement, device::Placement::reserve(backend.memory(), bytes, what));
  LS_TRY(auto weights, bind(Source{checkpoint, placement, backend.activation_dtype()}));
  weights.memory = placement.release();
  return weights;
}

}  // namespace

Result<ModelWeights> load_model_weights(const Checkpoint& checkpoint, kernels::Backend& backend) {
  return load(checkpoint, backend, bind_model, "weights");
}

Result<MtpWeights> load_mtp_weights(const Checkpoint& checkpoint, kernels::Backend& backend) {
  return load(checkpoint, backend, bind_mtp, "MTP weights");
}

Result<int64_t> model_weight_bytes(const Checkpoint& checkpoint, kernels::Backend& backend) {
  return count_bytes(checkpoint, backend, bind_model);
}

Result<int64_t> mtp_weight_bytes(const Checkpoint& checkpoint, kernels::Backend& backend) {
  return count_bytes(checkpoint, backend, bind_mtp);
}

std::vector<kernels::ExpertView> shared_experts(std::span<const LayerWeights> layers) {
  std::vector<kernels::ExpertView> shared;
  for (const LayerWeights& layer : layers) {
    if (!layer.moe) continue;
    if (!layer.moe->shared) return {};
    const FfnWeights& ffn = *layer.moe->shared;
    shared.push_back({ffn.gate, ffn.up, ffn.down});
  }
  return shared;
}

std::vector<float> rope_inv_freq(float theta, int64_t rope_dim) {
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < rope_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope_dim);
    inv_freq.push_back(1.0F / std::pow(theta, exponent));
  }
  return inv_freq;
}

}  // namespace longshore::model
