#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/format/e4m3.h"
#include "kernels/reference/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/scalar/rows.h"
#include "kernels/validate.h"

namespace longshore::kernels::reference {
namespace {

using scalar::dot;
using scalar::from_float;
using scalar::to_float;

using Floats = std::vector<float>;

Floats make(int64_t n) {
  return Floats(static_cast<size_t>(n));
}

void load_key(const IndexKeyCacheView& cache, int32_t page, int64_t position, float* key) {
  const std::byte* data = cache.key(page, position);
  if (cache.dtype == DType::kF32) return to_float(data, DType::kF32, cache.head_dim, key);
  const float scale = *cache.scale(page, position);
  for (int64_t i = 0; i < cache.head_dim; ++i) {
    key[i] = e4m3_to_float(static_cast<uint8_t>(data[i])) * scale;
  }
}

// scores[s] of token t for s in [0, position].
void score_token(const IndexSelectParams& p, int64_t t, float* scores) {
  const int64_t n = p.cache.head_dim;
  Floats q = make(p.heads * n);
  Floats key = make(n);
  scalar::index_query(p, t, q.data());
  const float* head_weights = p.head_weights.row_as<float>(t);
  const float key_scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int32_t s = 0; s <= p.batch.positions[t]; ++s) {
    load_key(p.cache, p.batch.page(p.batch.sequence_of[t], s), s, key.data());
    float score = 0;
    for (int64_t h = 0; h < p.heads; ++h) {
      const float logit = std::max(dot(q.data() + h * n, key.data(), n) * key_scale, 0.0f);
      score += head_weights[h] * p.weight_scale * logit;
    }
    scores[s] = score;
  }
}

void select_token(const IndexSelectParams& p, int64_t t) {
  const int64_t visible = p.batch.positions[t] + 1;
  int32_t* selected = p.selected + t * p.top_k;
  if (visible <= p.top_k && p.scores.data == nullptr) {
    p.counts[t] = scalar::select_all(visible, p.top_k, selected);
    return;
  }
  Floats scores = make(visible);
  score_token(p, t, scores.data());
  p.counts[t] = scalar::select_top(scores.data(), visible, p.top_k, selected);
  if (p.scores.data == nullptr) return;
  auto* row = p.scores.row_as<float>(t);
  std::copy(scores.begin(), scores.end(), row);
  std::fill(row + visible, row + p.scores.cols, -std::numeric_limits<float>::infinity());
}

// p = softmax(logits) in place.
void softmax(Floats& logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float& logit : logits) {
    logit = std::exp(logit - highest);
    sum += logit;
  }
  for (float& logit : logits) logit /= sum;
}

// The latents that token t attends to: [count, width] fp32.
Floats load_latents(const SparseMlaParams& p, int64_t t) {
  const int64_t width = p.cache.width();
  Floats latents = make(p.counts[t] * width);
  for (int64_t i = 0; i < p.counts[t]; ++i) {
    const int32_t s = p.selected[t * p.selected_stride + i];
    const std::byte* latent = p.cache.token(p.batch.page(p.batch.sequence_of[t], s), s);
    scalar::load_latent(p.cache, latent, latents.data() + i * width);
  }
  return latents;
}

void attend_token(const SparseMlaParams& p, int64_t t) {
  const int64_t width = p.cache.width();
  const Floats latents = load_latents(p, t);
  Floats weights = make(p.counts[t]);
  Floats q = make(width);
  Floats o = make(p.kv_lora);
  for (int64_t h = 0; h < p.heads; ++h) {
    to_float(p.q_c.row(t) + h * p.kv_lora * dtype_size(p.q_c.dtype), p.q_c.dtype, p.kv_lora,
             q.data());
    const int64_t rope = h * p.q_head_stride + p.q_rope_offset;
    to_float(p.q.row(t) + rope * dtype_size(p.q.dtype), p.q.dtype, p.rope_dim,
             q.data() + p.kv_lora);
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = dot(q.data(), latents.data() + static_cast<int64_t>(i) * width, width) * p.scale;
    }
    softmax(weights);
    std::fill(o.begin(), o.end(), 0.0f);
    for (size_t i = 0; i < weights.size(); ++i) {
      const float* c = latents.data() + static_cast<int64_t>(i) * width;
      for (int64_t j = 0; j < p.kv_lora; ++j) o[static_cast<size_t>(j)] += weights[i] * c[j];
    }
    from_float(o.data(), p.kv_lora, p.o.dtype, p.o.row(t) + h * p.kv_lora * dtype_size(p.o.dtype));
  }
}

}  // namespace

void ReferenceBackend::latent_store(const LatentStoreParams& p) {
  validate(p);
  scalar::latent_store(pool_, p);
}

void ReferenceBackend::index_key_store(const IndexKeyStoreParams& p) {
  validate(p);
  scalar::index_key_store(pool_, p);
}

void ReferenceBackend::index_gather(const IndexGatherParams& p) {
  validate(p);
  scalar::index_gather(p);
}

void ReferenceBackend::index_select(const IndexSelectParams& p) {
  validate(p);
  pool_.parallel_for(p.q.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) select_token(p, t);
  });
}

void ReferenceBackend::sparse_mla(const SparseMlaParams& p) {
  validate(p);
  pool_.parallel_for(p.o.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) attend_token(p, t);
  });
}

}  // namespace longshore::kernels::reference
