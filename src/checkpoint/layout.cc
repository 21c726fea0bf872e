#include "checkpoint/layout.h"

#include <utility>

#include <fmt/format.h>

namespace longshore {
namespace {

class Layout {
 public:
  explicit Layout(const GlmConfig& config) : config_(config) {}

  void add(std::string name, std::vector<int64_t> shape, TensorRole role, bool optional = false) {
    specs_.push_back({std::move(name), std::move(shape), role, optional});
  }
  void linear(const std::string& module, int64_t out, int64_t in) {
    add(module + ".weight", {out, in}, TensorRole::kLinear);
  }
  void norm(const std::string& module, int64_t size) {
    add(module + ".weight", {size}, TensorRole::kNorm);
  }

  void attention(const std::string& prefix) {
    const GlmConfig& c = config_;
    linear(prefix + "q_a_proj", c.q_lora_rank, c.hidden_size);
    norm(prefix + "q_a_layernorm", c.q_lora_rank);
    linear(prefix + "q_b_proj", c.num_heads * c.qk_head_dim(), c.q_lora_rank);
    linear(prefix + "kv_a_proj_with_mqa", c.latent_width(), c.hidden_size);
    norm(prefix + "kv_a_layernorm", c.kv_lora_rank);
    linear(prefix + "kv_b_proj", c.num_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank);
    linear(prefix + "o_proj", c.hidden_size, c.num_heads * c.v_head_dim);
  }

  void indexer(const std::string& prefix) {
    const GlmConfig& c = config_;
    linear(prefix + "wq_b", c.index_num_heads * c.index_head_dim, c.q_lora_rank);
    linear(prefix + "wk", c.index_head_dim, c.hidden_size);
    norm(prefix + "k_norm", c.index_head_dim);
    add(prefix + "k_norm.bias", {c.index_head_dim}, TensorRole::kNormBias);
    add(prefix + "weights_proj.weight", {c.index_num_heads, c.hidden_size}, TensorRole::kMatrix);
  }

  void feed_forward(const std::string& prefix, int64_t width) {
    linear(prefix + "gate_proj", width, config_.hidden_size);
    linear(prefix + "up_proj", width, config_.hidden_size);
    linear(prefix + "down_proj", config_.hidden_size, width);
  }

  void mixture(const std::string& prefix) {
    const GlmConfig& c = config_;
    add(prefix + "gate.weight", {c.num_experts, c.hidden_size}, TensorRole::kMatrix);
    add(prefix + "gate.e_score_correction_bias", {c.num_experts}, TensorRole::kRouterBias);
    for (int64_t expert = 0; expert < c.num_experts; ++expert) {
      feed_forward(fmt::format("{}experts.{}.", prefix, expert), c.moe_intermediate_size);
    }
    feed_forward(prefix + "shared_experts.", c.num_shared_experts * c.moe_intermediate_size);
  }

  void layer(int64_t index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    norm(prefix + "input_layernorm", config_.hidden_size);
    attention(prefix + "self_attn.");
    if (config_.has_indexer(index)) indexer(prefix + "self_attn.indexer.");
    norm(prefix + "post_attention_layernorm", config_.hidden_size);
    if (config_.is_moe(index)) {
      mixture(prefix + "mlp.");
    } else {
      feed_forward(prefix + "mlp.", config_.intermediate_size);
    }
  }

  void multi_token_prediction() {
    const GlmConfig& c = config_;
    const std::string prefix = fmt::format("model.layers.{}.", c.num_layers);
    norm(prefix + "enorm", c.hidden_size);
    norm(prefix + "hnorm", c.hidden_size);
    add(prefix + "eh_proj.weight", {c.hidden_size, 2 * c.hidden_size}, TensorRole::kMatrix);
    layer(c.num_layers);
    norm(prefix + "shared_head.norm", c.hidden_size);
    // Copies of the main model's, which are used instead.
    add(prefix + "embed_tokens.weight", {c.vocab_size, c.hidden_size}, TensorRole::kMatrix, true);
    add(prefix + "shared_head.head.weight", {c.vocab_size, c.hidden_size}, TensorRole::kMatrix,
        true);
  }

  std::vector<TensorSpec> take() { return std::move(specs_); }

 private:
  const GlmConfig& config_;
  std::vector<TensorSpec> specs_;
};

}  // namespace

std::vector<TensorSpec> checkpoint_layout(const GlmConfig& config) {
  Layout layout(config);
  layout.add("model.embed_tokens.weight", {config.vocab_size, config.hidden_size},
             TensorRole::kMatrix);
  for (int64_t index = 0; index < config.num_layers; ++index) layout.layer(index);
  layout.norm("model.norm", config.hidden_size);
  layout.add("lm_head.weight", {config.vocab_size, config.hidden_size}, TensorRole::kMatrix,
             config.tie_word_embeddings);
  if (config.num_mtp_layers > 0) layout.multi_token_prediction();
  return layout.take();
}

}  // namespace longshore
