// Mixture of experts: the router's choice and the experts' feed-forward. A params struct per
// operation.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace longshore::kernels {

// s = sigmoid(logits); the top_k experts of s + bias (bias for the choice only, lower index wins
// ties); weights = s of the chosen, divided by (their sum + 1e-20) if normalise, times scale.
// Written in descending order of s + bias. Source: "noaux_tc" of DeepSeek-V3 with one group.
struct RouterParams {
  ConstMatrixView logits;       // [tokens, experts] fp32
  const float* bias = nullptr;  // [experts]
  int64_t top_k = 0;
  bool normalise = true;
  float scale = 1;
  int32_t* ids = nullptr;    // [tokens, top_k]
  float* weights = nullptr;  // [tokens, top_k]
};

// One expert's weights, as they lie in memory.
struct ExpertView {
  WeightView gate;  // [intermediate, hidden]
  WeightView up;    // [intermediate, hidden]
  WeightView down;  // [hidden, intermediate]
};

// y[t] += sum over i of weights[t, i] * down_e(silu(gate_e x[t]) * up_e x[t]), e = ids[t, i], added
// in order of i. The order of one token's sum does not depend on which other tokens are in the
// batch. An id of -1 is a route that is computed elsewhere: it is skipped. All experts of a call
// have the same shapes; their dtypes may differ.
struct ExpertsParams {
  ConstMatrixView x;               // [tokens, hidden] act
  const int32_t* ids = nullptr;    // [tokens, top_k], in [0, experts) or -1
  const float* weights = nullptr;  // [tokens, top_k]
  int64_t top_k = 0;
  const ExpertView* experts = nullptr;  // [num_experts]
  int64_t num_experts = 0;
  MatrixView y;  // [tokens, hidden] fp32, accumulated into
};

}  // namespace longshore::kernels
