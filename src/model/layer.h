// One decoder layer: latent attention over the tokens that the indexer chose, then a dense or MoE
// feed-forward. Written once for all backends, for the main model and for MTP.
#pragma once

#include "checkpoint/config.h"
#include "kernels/backend.h"
#include "model/kv_layout.h"
#include "model/tap.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "offload/expert_store.h"

namespace longshore::model {

// What every layer of a step shares. References outlive the step.
struct StepContext {
  const GlmConfig& config;
  const float* inv_freq;  // [qk_rope_head_dim / 2]
  kernels::Backend& backend;
  Workspace& ws;
  LayerState& state;
  offload::ExpertStore& experts;
  kernels::BatchView batch;   // in the backend's memory
  const int32_t* logit_rows;  // in the backend's memory
  int64_t longest_context;    // highest position of the step + 1
  Tap& tap;
};

// state.x [T, hidden] goes in and comes out. layer: the checkpoint's index.
void run_layer(StepContext& step, const LayerWeights& weights, const LayerCache& cache,
               int64_t layer);

// The halves of run_layer, each adding to state.x.
void run_attention(StepContext& step, const AttentionWeights& weights, const LayerCache& cache,
                   int64_t layer);
void run_indexer(StepContext& step, const IndexerWeights& weights, const LayerCache& cache,
                 int64_t layer);
void run_moe(StepContext& step, const MoeWeights& weights, int64_t layer);
void run_ffn(StepContext& step, const FfnWeights& weights);

}  // namespace longshore::model
