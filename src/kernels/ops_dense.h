// Dense operations: embedding, norms, linear layers, rotation, activation. A params struct per
// operation.
//
// "act" stands for the backend's activation type: kF32 in reference, kBF16 in production. All sums
// are fp32. Inputs and outputs never overlap unless a comment says so. Every element of an output
// is written.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace longshore::kernels {

// y[t] = table[ids[t]]; zeros where the id is -1 (DrawParams found none).
struct EmbedParams {
  const int32_t* ids = nullptr;  // [tokens], each in [-1, vocab)
  WeightView table;              // [vocab, hidden]
  MatrixView y;                  // [tokens, hidden] fp32
};

// y[r] = x[rows[r]].
struct GatherRowsParams {
  ConstMatrixView x;              // [tokens, n] fp32
  const int32_t* rows = nullptr;  // [y.rows]
  MatrixView y;                   // [y.rows, n] fp32 or act
};

// y = weight * (x * rsqrt(mean(x^2) + eps)); statistics in fp32.
struct RmsNormParams {
  ConstMatrixView x;              // [tokens, n] fp32
  const float* weight = nullptr;  // [n]
  float eps = 0;
  MatrixView y;  // [tokens, n] fp32 or act; may be x itself when fp32
};

// y = x w^T, or y += x w^T.
struct LinearParams {
  ConstMatrixView x;        // [tokens, in] fp32 or act; production rounds fp32 to bf16 first
  WeightView w;             // [out, in]
  MatrixView y;             // [tokens, out] fp32 or act
  bool accumulate = false;  // y must be fp32
};

// One small linear layer per head: y[t, h] = w[h] x[t, h].
struct HeadLinearParams {
  ConstMatrixView x;  // [tokens, >= (heads-1) * x_head_stride + in] act; head h starts at column h
                      // * x_head_stride
  int64_t x_head_stride = 0;
  int64_t heads = 0;
  WeightView w;  // [heads * out, in]; rows [h * out, (h + 1) * out) are head h's. fp32 or bf16
  MatrixView y;  // [tokens, >= (heads-1) * y_head_stride + out] fp32 or act
  int64_t y_head_stride = 0;
};

// Interleaved rotary embedding of columns [rope_offset, rope_offset + rope_dim) of every head:
// pairs (0,1), (2,3), ... rotated by the angle position * inv_freq[i]; the other columns are
// copied. Product, cos and sin in fp32 (transformers' arithmetic: exact double angles flip index
// choices at 3000 tokens).
struct RopeParams {
  ConstMatrixView x;  // [tokens, heads * head_dim] fp32
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rope_offset = 0;
  int64_t rope_dim = 0;                // even
  const int32_t* positions = nullptr;  // [tokens]
  const float* inv_freq = nullptr;     // [rope_dim / 2]
  MatrixView y;  // [tokens, heads * head_dim] fp32 or act; may be x itself when fp32
};

// y = silu(gate) * up.
struct SiluMulParams {
  ConstMatrixView gate;  // [tokens, n] fp32
  ConstMatrixView up;    // [tokens, n] fp32
  MatrixView y;          // [tokens, n] fp32 or act
};

}  // namespace longshore::kernels
