#include "kernels/validate.h"

#include "base/check.h"

namespace longshore::kernels {
namespace {

bool is_activation(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

void check_matrix(const ConstMatrixView& m) {
  LS_CHECK_MSG(m.rows >= 0 && m.cols >= 0 && m.stride >= m.cols, "[{}, {}] with stride {}", m.rows,
               m.cols, m.stride);
  LS_CHECK(m.data != nullptr || m.rows == 0 || m.cols == 0);
  LS_CHECK_MSG(is_activation(m.dtype), "dtype {}", dtype_name(m.dtype));
}

void check_matrix(const ConstMatrixView& m, int64_t rows, int64_t cols) {
  check_matrix(m);
  LS_CHECK_MSG(m.rows == rows && m.cols == cols, "[{}, {}], not [{}, {}]", m.rows, m.cols, rows,
               cols);
}

void check_f32(const ConstMatrixView& m) {
  LS_CHECK_MSG(m.dtype == DType::kF32, "dtype {}", dtype_name(m.dtype));
}

void check_weight(const WeightView& w) {
  LS_CHECK(w.data != nullptr && w.out >= 1 && w.in >= 1);
  if (w.dtype == DType::kF8E4M3) {
    LS_CHECK(w.scale != nullptr && w.block_rows >= 1 && w.block_cols >= 1);
    LS_CHECK_MSG(w.scale_stride == (w.in + w.block_cols - 1) / w.block_cols,
                 "scale_stride {} of {} columns in blocks of {}", w.scale_stride, w.in,
                 w.block_cols);
    return;
  }
  LS_CHECK(w.scale == nullptr);
  LS_CHECK_MSG(is_activation(w.dtype) || w.dtype == DType::kF16, "dtype {}", dtype_name(w.dtype));
}

void check_weight(const WeightView& w, int64_t out, int64_t in) {
  check_weight(w);
  LS_CHECK_MSG(w.out == out && w.in == in, "[{}, {}], not [{}, {}]", w.out, w.in, out, in);
}

// Sizes alone: whose they are says the caller.
void check_shape(const WeightView& w, int64_t out, int64_t in) {
  LS_CHECK_MSG(w.out == out && w.in == in && out >= 1, "[{}, {}], not [{}, {}]", w.out, w.in, out,
               in);
}

bool same_kind(const WeightView& a, const WeightView& b) {
  return a.dtype == b.dtype && (a.dtype != DType::kF8E4M3 ||
                                (a.block_rows == b.block_rows && a.block_cols == b.block_cols));
}

void check_rope(int64_t rope_dim, int64_t width, const float* inv_freq) {
  LS_CHECK_MSG(rope_dim >= 0 && rope_dim % 2 == 0 && rope_dim <= width, "rope_dim {} of {}",
               rope_dim, width);
  LS_CHECK(inv_freq != nullptr || rope_dim == 0);
}

void check_batch(const BatchView& batch, int64_t tokens, Contents contents) {
  LS_CHECK_MSG(batch.tokens == tokens, "{} tokens, not {}", batch.tokens, tokens);
  if (tokens == 0) return;
  LS_CHECK(batch.positions != nullptr && batch.sequence_of != nullptr &&
           batch.page_table != nullptr);
  if (contents == Contents::kOnDevice) return;
  for (int64_t t = 0; t < tokens; ++t) {
    LS_CHECK_MSG(batch.sequence_of[t] >= 0 && batch.sequence_of[t] < batch.sequences,
                 "token {} of sequence {}", t, batch.sequence_of[t]);
    LS_CHECK_MSG(
        batch.positions[t] >= 0 && batch.positions[t] / kPageTokens < batch.page_table_width,
        "token {} at position {}", t, batch.positions[t]);
    LS_CHECK(batch.page(batch.sequence_of[t], batch.positions[t]) >= 0);
  }
}

void check_latents(const LatentCacheView& cache, int64_t kv_lora, int64_t rope_dim) {
  LS_CHECK(cache.data != nullptr);
  LS_CHECK_MSG(is_activation(cache.dtype) || cache.dtype == DType::kF8E4M3, "dtype {}",
               dtype_name(cache.dtype));
  LS_CHECK_MSG(cache.kv_lora == kv_lora && cache.rope_dim == rope_dim, "{} + {}, not {} + {}",
               cache.kv_lora, cache.rope_dim, kv_lora, rope_dim);
  LS_CHECK(rope_dim % 2 == 0);
}

void check_index_keys(const IndexKeyCacheView& cache, int64_t head_dim) {
  LS_CHECK(cache.data != nullptr);
  LS_CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kF8E4M3);
  LS_CHECK_MSG(cache.head_dim == head_dim, "head_dim {}, not {}", cache.head_dim, head_dim);
}

}  // namespace

void validate(const EmbedParams& p, Contents contents) {
  check_weight(p.table);
  check_matrix(p.y);
  check_f32(p.y);
  LS_CHECK(p.y.cols == p.table.in && (p.ids != nullptr || p.y.rows == 0));
  if (contents == Contents::kOnDevice) return;
  for (int64_t t = 0; t < p.y.rows; ++t) {
    LS_CHECK_MSG(p.ids[t] >= -1 && p.ids[t] < p.table.out, "id {}", p.ids[t]);
  }
}

void validate(const GatherRowsParams& p, Contents contents) {
  check_matrix(p.x);
  check_f32(p.x);
  check_matrix(p.y, p.y.rows, p.x.cols);
  LS_CHECK(p.rows != nullptr || p.y.rows == 0);
  if (contents == Contents::kOnDevice) return;
  for (int64_t r = 0; r < p.y.rows; ++r) {
    LS_CHECK_MSG(p.rows[r] >= 0 && p.rows[r] < p.x.rows, "row {} of {}", p.rows[r], p.x.rows);
  }
}

void validate(const RmsNormParams& p) {
  check_matrix(p.x);
  check_f32(p.x);
  check_matrix(p.y, p.x.rows, p.x.cols);
  LS_CHECK(p.weight != nullptr);
}

void validate(const LinearParams& p) {
  check_weight(p.w);
  check_matrix(p.x, p.x.rows, p.w.in);
  check_matrix(p.y, p.x.rows, p.w.out);
  if (p.accumulate) check_f32(p.y);
}

void validate(const HeadLinearParams& p) {
  LS_CHECK(p.heads >= 1 && p.w.out % p.heads == 0 && p.x_head_stride >= 0);
  check_weight(p.w);
  LS_CHECK(is_activation(p.w.dtype));
  check_matrix(p.x);
  check_matrix(p.y);
  const int64_t out = p.w.out / p.heads;
  LS_CHECK(p.x.rows == p.y.rows);
  LS_CHECK(p.x.cols >= (p.heads - 1) * p.x_head_stride + p.w.in);
  LS_CHECK(p.y_head_stride >= out && p.y.cols >= (p.heads - 1) * p.y_head_stride + out);
}

void validate(const RopeParams& p) {
  LS_CHECK(p.heads >= 1 && p.head_dim >= 1 && p.rope_offset >= 0);
  check_matrix(p.x, p.x.rows, p.heads * p.head_dim);
  check_f32(p.x);
  check_matrix(p.y, p.x.rows, p.x.cols);
  check_rope(p.rope_dim, p.head_dim - p.rope_offset, p.inv_freq);
  LS_CHECK(p.positions != nullptr || p.x.rows == 0);
}

void validate(const SiluMulParams& p) {
  check_matrix(p.gate);
  check_f32(p.gate);
  check_matrix(p.up, p.gate.rows, p.gate.cols);
  check_f32(p.up);
  check_matrix(p.y, p.gate.rows, p.gate.cols);
}

void validate(const LatentStoreParams& p, Contents contents) {
  LS_CHECK(p.kv_lora >= 1 && p.norm_weight != nullptr);
  check_matrix(p.kv, p.kv.rows, p.kv_lora + p.rope_dim);
  check_f32(p.kv);
  check_rope(p.rope_dim, p.rope_dim, p.inv_freq);
  check_batch(p.batch, p.kv.rows, contents);
  check_latents(p.cache, p.kv_lora, p.rope_dim);
}

void validate(const IndexKeyStoreParams& p, Contents contents) {
  check_matrix(p.k);
  check_f32(p.k);
  LS_CHECK(p.k.cols >= 1 && p.norm_weight != nullptr && p.norm_bias != nullptr);
  check_rope(p.rope_dim, p.k.cols, p.inv_freq);
  check_batch(p.batch, p.k.rows, contents);
  check_index_keys(p.cache, p.k.cols);
}

void validate(const IndexGatherParams& p, Contents contents) {
  LS_CHECK(p.sequences >= 0 && p.page_table_width >= 0 && p.cache.head_dim >= 1);
  check_index_keys(p.cache, p.cache.head_dim);
  LS_CHECK(p.cache.dtype == DType::kF8E4M3);
  if (p.sequences == 0) return;
  LS_CHECK(p.page_table != nullptr && p.seq_lens != nullptr);
  LS_CHECK(p.keys != nullptr && p.scales != nullptr);
  if (contents == Contents::kOnDevice) return;
  for (int64_t b = 0; b < p.sequences; ++b) {
    LS_CHECK_MSG(p.seq_lens[b] >= 0 && p.seq_lens[b] <= p.page_table_width * kPageTokens,
                 "sequence {} of {} positions", b, p.seq_lens[b]);
  }
}

void validate(const IndexSelectParams& p, Contents contents) {
  LS_CHECK(p.heads >= 1 && p.top_k >= 1 && p.cache.head_dim >= 1);
  check_index_keys(p.cache, p.cache.head_dim);
  check_matrix(p.q, p.q.rows, p.heads * p.cache.head_dim);
  check_f32(p.q);
  check_matrix(p.head_weights, p.q.rows, p.heads);
  check_f32(p.head_weights);
  check_rope(p.rope_dim, p.cache.head_dim, p.inv_freq);
  check_batch(p.batch, p.q.rows, contents);
  LS_CHECK((p.selected != nullptr && p.counts != nullptr) || p.q.rows == 0);
  if (p.scores.data == nullptr) return;
  check_matrix(p.scores, p.q.rows, p.scores.cols);
  check_f32(p.scores);
  if (contents == Contents::kOnDevice) return;
  for (int64_t t = 0; t < p.q.rows; ++t) LS_CHECK(p.batch.positions[t] < p.scores.cols);
}

void validate(const SparseMlaParams& p, Contents contents) {
  LS_CHECK(p.heads >= 1 && p.kv_lora >= 1 && p.rope_dim >= 0 && p.q_rope_offset >= 0);
  check_matrix(p.q_c, p.q_c.rows, p.heads * p.kv_lora);
  check_matrix(p.q);
  LS_CHECK(p.q.rows == p.q_c.rows && p.q.dtype == p.q_c.dtype);
  LS_CHECK(p.q.cols >= (p.heads - 1) * p.q_head_stride + p.q_rope_offset + p.rope_dim);
  check_matrix(p.o, p.q_c.rows, p.heads * p.kv_lora);
  check_batch(p.batch, p.q_c.rows, contents);
  check_latents(p.cache, p.kv_lora, p.rope_dim);
  LS_CHECK((p.selected != nullptr && p.counts != nullptr) || p.q_c.rows == 0);
  if (contents == Contents::kOnDevice) return;
  for (int64_t t = 0; t < p.q_c.rows; ++t) {
    LS_CHECK_MSG(p.counts[t] >= 1 && p.counts[t] <= p.selected_stride, "token {} sees {} positions",
                 t, p.counts[t]);
    const int32_t* chosen = p.selected + t * p.selected_stride;
    LS_CHECK(chosen[0] >= 0 && chosen[p.counts[t] - 1] <= p.batch.positions[t]);
  }
}

void validate(const RouterParams& p) {
  check_matrix(p.logits);
  check_f32(p.logits);
  LS_CHECK_MSG(p.top_k >= 1 && p.top_k <= p.logits.cols, "top_k {} of {} experts", p.top_k,
               p.logits.cols);
  LS_CHECK(p.bias != nullptr);
  LS_CHECK((p.ids != nullptr && p.weights != nullptr) || p.logits.rows == 0);
}

void validate(const ExpertsParams& p, Contents contents) {
  check_matrix(p.x);
  check_matrix(p.y, p.x.rows, p.x.cols);
  check_f32(p.y);
  LS_CHECK(p.top_k >= 0 && p.num_experts >= 0);
  const int64_t routes = p.x.rows * p.top_k;
  if (routes == 0) return;
  LS_CHECK(p.ids != nullptr && p.weights != nullptr && p.experts != nullptr);
  check_shape(p.shape.gate, p.shape.gate.out, p.x.cols);
  check_shape(p.shape.up, p.shape.gate.out, p.x.cols);
  check_shape(p.shape.down, p.x.cols, p.shape.gate.out);
  LS_CHECK(p.part.expert < p.num_experts);
  LS_CHECK(p.part.expert < 0 || (p.part.rows >= 1 && p.part.rows <= p.shape.gate.out));
  if (contents == Contents::kOnDevice) {
    LS_CHECK_MSG(p.part.expert < 0, "a device computes whole experts");
    return;
  }
  for (int64_t r = 0; r < routes; ++r) {
    const int32_t id = p.ids[r];
    LS_CHECK_MSG(id >= -1 && id < p.num_experts, "expert {} of {}", id, p.num_experts);
    if (id < 0) continue;
    const ExpertView& expert = p.experts[id];
    check_weight(expert.gate, p.shape.gate.out, p.x.cols);
    check_weight(expert.up, p.shape.gate.out, p.x.cols);
    check_weight(expert.down, p.x.cols, p.shape.gate.out);
    LS_CHECK(p.mixed || (same_kind(expert.gate, p.shape.gate) && same_kind(expert.up, p.shape.up) &&
                         same_kind(expert.down, p.shape.down)));
  }
}

void validate(const MaskRoutesParams& p, Contents contents) {
  LS_CHECK(p.count >= 0 && p.num_experts >= 0);
  if (p.count == 0) return;
  LS_CHECK(p.ids != nullptr && p.keep != nullptr && p.out != nullptr);
  if (contents == Contents::kOnDevice) return;
  for (int64_t i = 0; i < p.count; ++i) {
    LS_CHECK_MSG(p.ids[i] >= -1 && p.ids[i] < p.num_experts, "expert {} of {}", p.ids[i],
                 p.num_experts);
  }
}

void validate(const AddParams& p) {
  check_f32(p.x);
  check_f32(p.y);
  check_matrix(p.y);
  check_matrix(p.x, p.y.rows, p.y.cols);
}

void validate(const DrawParams& p) {
  check_matrix(p.logits);
  check_f32(p.logits);
  if (p.logits.rows == 0) return;
  LS_CHECK(p.logits.cols >= 1 && p.ids != nullptr && (p.greedy || p.rules != nullptr));
}

}  // namespace longshore::kernels
