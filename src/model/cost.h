// What a token costs: bytes of weights read and floating-point operations. Pure functions, for
// benchmarks and planning.
#pragma once

#include <cstdint>

#include "checkpoint/config.h"
#include "model/weights.h"

namespace longshore::model {

// Bytes of all weights outside the routed experts and the embedding table that one step reads,
// whatever its tokens: attention, indexer (also where nothing is scored), dense FFN, router, shared
// expert, lm_head; scales included.
[[nodiscard]] int64_t step_bytes(const ModelWeights& weights);

// The part of it that one layer reads.
[[nodiscard]] int64_t layer_bytes(const LayerWeights& layer);

// Multiply-adds times two of one token with `context` tokens before it: linear layers, index
// scores, attention. Without lm_head, which prefill runs once a chunk.
[[nodiscard]] double token_flops(const GlmConfig& config, int64_t context);

}  // namespace longshore::model
