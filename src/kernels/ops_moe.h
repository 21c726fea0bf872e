// Mixture of experts: the router's choice and the experts' feed-forward. A params struct per
// operation.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>

#include "base/tensor.h"

namespace longshore::kernels {

// s = sigmoid(logits); the top_k experts of s + bias (bias for the choice only, lower index wins
// ties); weights = s of the chosen, divided by (their sum + 1e-20) if normalise, times scale.
// Written in descending order of s + bias. Source: "noaux_tc" of DeepSeek-V3 with one group.
// Unless joined is negative, every token has one more route before those, to that expert with
// weight 1: a shared expert that is computed with the routed ones, and first, as it is by itself.
struct RouterParams {
  ConstMatrixView logits;       // [tokens, experts] fp32
  const float* bias = nullptr;  // [experts]
  int64_t top_k = 0;
  bool normalise = true;
  float scale = 1;
  int32_t joined = -1;
  int32_t* ids = nullptr;    // [tokens, routes()]
  float* weights = nullptr;  // [tokens, routes()]

  // Of a token, and which of them is its first chosen one.
  [[nodiscard]] constexpr int64_t routes() const { return top_k + first_chosen(); }
  [[nodiscard]] constexpr int64_t first_chosen() const { return joined >= 0 ? 1 : 0; }
};

// One expert's weights, as they lie in memory.
struct ExpertView {
  WeightView gate;  // [intermediate, hidden]
  WeightView up;    // [intermediate, hidden]
  WeightView down;  // [hidden, intermediate]
};

// Everything but the data and the scales.
[[nodiscard]] inline ExpertView shape_of(ExpertView expert) {
  for (WeightView* w : {&expert.gate, &expert.up, &expert.down}) {
    w->data = nullptr;
    w->scale = nullptr;
  }
  return expert;
}

// The first `rows` of one expert's intermediate width: a term of its output, as the rest is. So two
// devices can share an expert.
struct ExpertPart {
  int32_t expert = -1;  // none
  int64_t rows = 0;     // of gate and up, columns of down; in [1, intermediate]
};

// y[t] += sum over i of weights[t, i] * down_e(silu(gate_e x[t]) * up_e x[t]), e = ids[t, i], added
// in order of i. The order of one token's sum does not depend on which other tokens are in the
// batch. An id of -1 is a route that is computed elsewhere: it is skipped. All experts of a call
// have the same sizes. On a device every expert's data is aligned to 16 bytes.
struct ExpertsParams {
  ConstMatrixView x;               // [tokens, hidden] act
  const int32_t* ids = nullptr;    // [tokens, top_k], in [0, experts) or -1
  const float* weights = nullptr;  // [tokens, top_k]
  int64_t top_k = 0;
  const ExpertView* experts = nullptr;  // [num_experts]
  int64_t num_experts = 0;
  // Of every expert, in host memory whatever the backend: sizes; dtypes and blocks too unless
  // mixed.
  ExpertView shape;
  bool mixed = false;
  ExpertPart part = {};  // of this expert no more is computed; host backends only
  // Called once by the calling thread, when other threads have begun to compute where there are
  // any; null: nothing. Host backends only.
  const std::function<void()>* meanwhile = nullptr;
  MatrixView y;  // [tokens, hidden] fp32, accumulated into
};

// out[i] = ids[i] where keep[ids[i]] is not 0, else -1: the routes that one call of several
// computes. ids of -1 stay -1.
struct MaskRoutesParams {
  const int32_t* ids = nullptr;  // [count], in [0, num_experts) or -1
  int64_t count = 0;
  const int32_t* keep = nullptr;  // [num_experts]
  int64_t num_experts = 0;
  int32_t* out = nullptr;  // [count]
};

// y += x. x may lie in mapped host memory.
struct AddParams {
  ConstMatrixView x;  // [tokens, n] fp32
  MatrixView y;       // [tokens, n] fp32
};

}  // namespace longshore::kernels
