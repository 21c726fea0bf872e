#include "model/cost.h"

#include <algorithm>

namespace longshore::model {
namespace {

int64_t bytes_of(const WeightView& w) {
  return w.bytes_with_scales();
}

int64_t bytes_of(const FfnWeights& w) {
  return bytes_of(w.gate) + bytes_of(w.up) + bytes_of(w.down);
}

int64_t bytes_of(const AttentionWeights& w) {
  int64_t bytes = bytes_of(w.q_a) + bytes_of(w.q_b) + bytes_of(w.kv_a) + bytes_of(w.uk_t) +
                  bytes_of(w.uv) + bytes_of(w.o);
  if (w.indexer)
    bytes +=
        bytes_of(w.indexer->wq_b) + bytes_of(w.indexer->wk) + bytes_of(w.indexer->weights_proj);
  return bytes;
}

double attention_parameters(const GlmConfig& c, bool indexer) {
  double n = static_cast<double>(
      c.q_lora_rank * c.hidden_size + c.num_heads * c.qk_head_dim() * c.q_lora_rank +
      c.latent_width() * c.hidden_size + c.hidden_size * c.num_heads * c.v_head_dim);
  n += static_cast<double>(c.num_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank);
  if (indexer) {
    n += static_cast<double>(c.index_num_heads * c.index_head_dim * c.q_lora_rank +
                             (c.index_head_dim + c.index_num_heads) * c.hidden_size);
  }
  return n;
}

}  // namespace

int64_t layer_bytes(const LayerWeights& layer) {
  int64_t bytes = bytes_of(layer.attention);
  if (layer.dense) bytes += bytes_of(*layer.dense);
  if (layer.moe)
    bytes += bytes_of(layer.moe->router) + (layer.moe->shared ? bytes_of(*layer.moe->shared) : 0);
  return bytes;
}

int64_t step_bytes(const ModelWeights& weights) {
  int64_t bytes = bytes_of(weights.lm_head);
  for (const LayerWeights& layer : weights.layers) bytes += layer_bytes(layer);
  return bytes;
}

double token_flops(const GlmConfig& c, int64_t context) {
  const auto seen = static_cast<double>(std::min(context + 1, c.index_top_k));
  const double attend =
      seen * static_cast<double>(c.num_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim));
  const double score =
      context + 1 <= c.index_top_k
          ? 0.0
          : static_cast<double>((context + 1) * c.index_num_heads * c.index_head_dim);
  double total = 0;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    total += attention_parameters(c, c.has_indexer(layer)) + attend +
             (c.has_indexer(layer) ? score : 0.0);
    const int64_t width =
        c.is_moe(layer) ? (c.experts_per_token + c.num_shared_experts) * c.moe_intermediate_size
                        : c.intermediate_size;
    total += static_cast<double>(3 * width * c.hidden_size);
    if (c.is_moe(layer)) total += static_cast<double>(c.num_experts * c.hidden_size);
  }
  return 2 * total;
}

}  // namespace longshore::model
