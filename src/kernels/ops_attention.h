// Latent attention (MLA) and the sparse-attention indexer (DSA) over paged caches. A params struct
// per operation.
//
// "act" is the backend's activation type, as in ops_dense.h. Mathematics: GlmMoeDsaForCausalLM of
// transformers 5.17, DeepSeek-V3.2's sparse attention.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/paged.h"

namespace longshore::kernels {

// Stores each token's latent: c = rmsnorm(kv[:kv_lora]), k_rope = rope(kv[kv_lora:]), at its page
// and slot, in the cache's format.
struct LatentStoreParams {
  ConstMatrixView kv;  // [T, kv_lora + rope_dim] fp32, raw output of kv_a_proj_with_mqa
  int64_t kv_lora = 0;
  int64_t rope_dim = 0;
  const float* norm_weight = nullptr;  // [kv_lora]
  float eps = 0;
  const float* inv_freq = nullptr;  // [rope_dim / 2]
  BatchView batch;
  LatentCacheView cache;  // kv_lora and rope_dim as above
};

// Stores each token's index key: LayerNorm, rope on the FIRST rope_dim columns, then for FP8 caches
// the normalised Hadamard rotation (kernels/format/hadamard.h) and quantisation with one scale per
// key.
struct IndexKeyStoreParams {
  ConstMatrixView k;  // [T, head_dim] fp32, raw output of indexer.wk
  int64_t rope_dim = 0;
  const float* norm_weight = nullptr;  // [head_dim]
  const float* norm_bias = nullptr;    // [head_dim]
  float eps = 0;
  const float* inv_freq = nullptr;  // [rope_dim / 2]
  BatchView batch;
  IndexKeyCacheView cache;
};

// Index keys and scales of whole sequences, packed one sequence after the other: sequence b's
// position s goes to row seq_lens[0] + ... + seq_lens[b - 1] + s. What a kernel that wants
// contiguous keys reads; index_select reads the pages themselves. Page-table width, number of
// sequences and lengths are run-time values.
struct IndexGatherParams {
  IndexKeyCacheView cache;  // kF8E4M3
  int64_t sequences = 0;
  const int32_t* page_table = nullptr;  // [sequences, page_table_width], as in BatchView
  int64_t page_table_width = 0;
  const int32_t* seq_lens = nullptr;  // [sequences], >= 0
  std::byte* keys = nullptr;          // [sum(seq_lens), head_dim] FP8
  float* scales = nullptr;            // [sum(seq_lens)]
};

// For every token the positions that its attention may see: all 0..position if those are at most
// top_k, else the top_k with the highest
//   score(s) = sum_h head_weights[t, h] * weight_scale * relu(q[t, h] . key[s] * head_dim^-0.5),
// equal scores: lower position first. Output positions ascend, so equal sets are equal arrays.
// q and head_weights of a token with at most top_k positions are not read unless scores are wanted.
// The keys of positions 0..positions[t] are in the cache already. Rope (first rope_dim columns of
// each head) and, for FP8 caches, the Hadamard rotation are applied to q here.
struct IndexSelectParams {
  ConstMatrixView q;             // [T, heads * head_dim] fp32, raw output of indexer.wq_b
  ConstMatrixView head_weights;  // [T, heads] fp32, raw output of indexer.weights_proj
  float weight_scale = 0;        // heads^-0.5
  int64_t heads = 0;
  int64_t rope_dim = 0;
  const float* inv_freq = nullptr;  // [rope_dim / 2]
  BatchView batch;
  IndexKeyCacheView cache;
  int64_t top_k = 0;
  int32_t* selected = nullptr;  // [T, top_k]; entries past counts[t] are -1
  int32_t* counts = nullptr;    // [T] = min(positions[t] + 1, top_k)
  // Optional, for tests and tools: all scores of the tokens, [T, scores.cols]; columns past a
  // token's position are -inf. When set, tokens with few positions are scored too.
  MatrixView scores;  // fp32; data == nullptr: not wanted
};

// Absorbed attention over the chosen positions, softmax in fp32:
//   logit(h, s) = (q_c[t, h] . c_s + q_rope[t, h] . k_rope_s) * scale;  o[t, h] = sum_s
//   softmax(logit)_s c_s.
struct SparseMlaParams {
  ConstMatrixView q_c;        // [T, heads * kv_lora] act
  ConstMatrixView q;          // [T, heads * q_head_stride] act; head h's rope part starts at
  int64_t q_head_stride = 0;  //   h * q_head_stride + q_rope_offset
  int64_t q_rope_offset = 0;
  int64_t heads = 0;
  int64_t kv_lora = 0;
  int64_t rope_dim = 0;
  float scale = 0;  // qk_head_dim^-0.5
  BatchView batch;
  LatentCacheView cache;
  const int32_t* selected = nullptr;  // [T, selected_stride] ascending positions
  int64_t selected_stride = 0;
  const int32_t* counts = nullptr;  // [T], >= 1
  MatrixView o;                     // [T, heads * kv_lora] act
};

}  // namespace longshore::kernels
