#include "model/layer.h"

#include <cmath>

namespace longshore::model {
namespace {

void rms_norm(StepContext& step, ConstMatrixView x, const float* weight, float eps, MatrixView y) {
  step.backend.rms_norm({.x = x, .weight = weight, .eps = eps, .y = y});
}

void linear(StepContext& step, ConstMatrixView x, const WeightView& w, MatrixView y,
            bool accumulate = false) {
  step.backend.linear({.x = x, .w = w, .y = y, .accumulate = accumulate});
}

}  // namespace

void run_layer(StepContext& step, const LayerWeights& weights, const LayerCache& cache,
               int64_t layer) {
  const int64_t tokens = step.batch.tokens;
  const MatrixView x = step.state.x.first(tokens);
  const MatrixView normed = step.state.normed.first(tokens);
  rms_norm(step, x, weights.input_norm, step.config.rms_norm_eps, normed);
  run_attention(step, weights.attention, cache, layer);
  rms_norm(step, x, weights.ffn_norm, step.config.rms_norm_eps, normed);
  if (weights.dense) {
    run_ffn(step, *weights.dense);
  } else {
    run_moe(step, *weights.moe, layer);
  }
  step.tap.hidden(layer, x);
}

void run_attention(StepContext& step, const AttentionWeights& weights, const LayerCache& cache,
                   int64_t layer) {
  const GlmConfig& c = step.config;
  const int64_t tokens = step.batch.tokens;
  const int64_t qk = c.qk_head_dim();
  Workspace& ws = step.ws;
  const MatrixView normed = step.state.normed.first(tokens);

  linear(step, normed, weights.q_a, ws.q_lat_raw.first(tokens));
  rms_norm(step, ws.q_lat_raw.first(tokens), weights.q_a_norm, kLatentNormEps,
           ws.q_lat.first(tokens));
  linear(step, ws.q_lat.first(tokens), weights.q_b, ws.q_raw.first(tokens));
  step.backend.rope({.x = ws.q_raw.first(tokens),
                     .heads = c.num_heads,
                     .head_dim = qk,
                     .rope_offset = c.qk_nope_head_dim,
                     .rope_dim = c.qk_rope_head_dim,
                     .positions = step.batch.positions,
                     .inv_freq = step.inv_freq,
                     .y = ws.q.first(tokens)});
  linear(step, normed, weights.kv_a, ws.kv.first(tokens));
  step.backend.latent_store({.kv = ws.kv.first(tokens),
                             .kv_lora = c.kv_lora_rank,
                             .rope_dim = c.qk_rope_head_dim,
                             .norm_weight = weights.kv_a_norm,
                             .eps = kLatentNormEps,
                             .inv_freq = step.inv_freq,
                             .batch = step.batch,
                             .cache = cache.latent});
  if (weights.indexer) run_indexer(step, *weights.indexer, cache, layer);

  step.backend.head_linear({.x = ws.q.first(tokens),
                            .x_head_stride = qk,
                            .heads = c.num_heads,
                            .w = weights.uk_t,
                            .y = ws.q_c.first(tokens),
                            .y_head_stride = c.kv_lora_rank});
  step.backend.sparse_mla({.q_c = ws.q_c.first(tokens),
                           .q = ws.q.first(tokens),
                           .q_head_stride = qk,
                           .q_rope_offset = c.qk_nope_head_dim,
                           .heads = c.num_heads,
                           .kv_lora = c.kv_lora_rank,
                           .rope_dim = c.qk_rope_head_dim,
                           .scale = 1.0F / std::sqrt(static_cast<float>(qk)),
                           .batch = step.batch,
                           .cache = cache.latent,
                           .selected = step.state.selected.first(tokens).row_as<int32_t>(0),
                           .selected_stride = c.index_top_k,
                           .counts = step.state.counts.first(tokens).row_as<int32_t>(0),
                           .o = ws.o_lat.first(tokens)});
  step.backend.head_linear({.x = ws.o_lat.first(tokens),
                            .x_head_stride = c.kv_lora_rank,
                            .heads = c.num_heads,
                            .w = weights.uv,
                            .y = ws.o.first(tokens),
                            .y_head_stride = c.v_head_dim});
  linear(step, ws.o.first(tokens), weights.o, step.state.x.first(tokens), /*accumulate=*/true);
}

void run_indexer(StepContext& step, const IndexerWeights& weights, const LayerCache& cache,
                 int64_t layer) {
  const GlmConfig& c = step.config;
  const int64_t tokens = step.batch.tokens;
  Workspace& ws = step.ws;
  const MatrixView normed = step.state.normed.first(tokens);
  linear(step, normed, weights.wk, ws.index_k.first(tokens));
  // Stored even while every token is chosen: the context may grow past index_topk.
  step.backend.index_key_store({.k = ws.index_k.first(tokens),
                                .rope_dim = c.qk_rope_head_dim,
                                .norm_weight = weights.k_norm,
                                .norm_bias = weights.k_norm_bias,
                                .eps = kIndexNormEps,
                                .inv_freq = step.inv_freq,
                                .batch = step.batch,
                                .cache = cache.index});
  kernels::IndexSelectParams select;
  select.scores = step.tap.score_buffer(layer, tokens);
  select.q = ws.index_q.first(tokens);
  select.head_weights = ws.index_weights.first(tokens);
  // Otherwise every token sees all there is: nothing is scored and the queries are not read.
  if (step.longest_context > c.index_top_k || select.scores.data != nullptr) {
    linear(step, ws.q_lat.first(tokens), weights.wq_b, ws.index_q.first(tokens));
    linear(step, normed, weights.weights_proj, ws.index_weights.first(tokens));
  }
  select.weight_scale = 1.0F / std::sqrt(static_cast<float>(c.index_num_heads));
  select.heads = c.index_num_heads;
  select.rope_dim = c.qk_rope_head_dim;
  select.inv_freq = step.inv_freq;
  select.batch = step.batch;
  select.cache = cache.index;
  select.top_k = c.index_top_k;
  select.selected = step.state.selected.first(tokens).row_as<int32_t>(0);
  select.counts = step.state.counts.first(tokens).row_as<int32_t>(0);
  step.backend.index_select(select);
  step.tap.selection(layer, step.state.selected.first(tokens), select.counts);
}

void run_moe(StepContext& step, const MoeWeights& weights, int64_t layer) {
  const GlmConfig& c = step.config;
  const int64_t tokens = step.batch.tokens;
  Workspace& ws = step.ws;
  const bool joined = weights.shared && step.experts.joins(tokens);
  const int64_t chosen = c.experts_per_token;
  const MatrixView ids = step.state.route_ids.packed(tokens, chosen + (joined ? 1 : 0));
  const MatrixView route_weights = step.state.route_weights.packed(tokens, ids.cols);
  linear(step, step.state.normed.first(tokens), weights.router, ws.router_logits.first(tokens));
  step.backend.router({.logits = ws.router_logits.first(tokens),
                       .bias = weights.bias,
                       .top_k = chosen,
                       .normalise = c.norm_topk_prob,
                       .scale = c.routed_scaling_factor,
                       .joined = joined ? static_cast<int32_t>(c.num_experts) : -1,
                       .ids = ids.row_as<int32_t>(0),
                       .weights = route_weights.row_as<float>(0)});
  step.tap.routes(layer, ids, route_weights, chosen);
  const offload::Routes routes{ids.row_as<int32_t>(0), route_weights.row_as<float>(0), ids.cols};
  step.experts.announce(layer, step.state.normed.first(tokens), routes);
  if (weights.shared && !joined) run_ffn(step, *weights.shared);
  step.experts.run(layer, step.state.normed.first(tokens), routes, step.state.x.first(tokens));
}

void run_ffn(StepContext& step, const FfnWeights& weights) {
  const int64_t tokens = step.batch.tokens;
  const int64_t width = weights.gate.out;
  Workspace& ws = step.ws;
  const MatrixView gate = ws.gate.first(tokens).slice_cols(0, width);
  const MatrixView up = ws.up.first(tokens).slice_cols(0, width);
  const MatrixView ffn = ws.ffn.first(tokens).slice_cols(0, width);
  linear(step, step.state.normed.first(tokens), weights.gate, gate);
  linear(step, step.state.normed.first(tokens), weights.up, up);
  step.backend.silu_mul({.gate = gate, .up = up, .y = ffn});
  linear(step, ffn, weights.down, step.state.x.first(tokens), /*accumulate=*/true);
}

}  // namespace longshore::model
