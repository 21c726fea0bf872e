#include "kernels/scalar/ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/format/e4m3.h"
#include "kernels/format/hadamard.h"
#include "kernels/scalar/rows.h"

namespace longshore::kernels::scalar {
namespace {

// Tokens per piece: small enough to spread a prompt, large enough that a few tokens wake nobody.
constexpr int64_t kGrain = 4;

using Floats = std::vector<float>;

Floats make(int64_t n) {
  return Floats(static_cast<size_t>(n));
}

void layer_norm_row(float* x, const float* weight, const float* bias, float eps, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) x[i] -= mean;
  const float norm = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] * norm * weight[i] + bias[i];
}

void store_fp8_key(float* key, int64_t n, std::byte* codes, float* scale) {
  hadamard_rotate(key, n);
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::abs(key[i]));
  *scale = amax / kE4m3Max;
  auto* bytes = reinterpret_cast<uint8_t*>(codes);
  for (int64_t i = 0; i < n; ++i) {
    bytes[i] = *scale > 0 ? e4m3_from_float(key[i] / *scale) : uint8_t{0};
  }
}

void route_token(const RouterParams& p, int64_t t, float* gates, float* choice) {
  const float* logits = p.logits.row_as<float>(t);
  int32_t* ids = p.ids + t * p.routes() + p.first_chosen();
  float* weights = p.weights + t * p.routes() + p.first_chosen();
  int64_t kept = 0;  // ids[0, kept) descend by choice; an equal one is inserted behind
  for (int32_t e = 0; e < p.logits.cols; ++e) {
    gates[e] = sigmoid(logits[e]);
    choice[e] = gates[e] + p.bias[e];
    if (kept == p.top_k && !(choice[e] > choice[ids[kept - 1]])) continue;
    int64_t place = kept < p.top_k ? kept++ : kept - 1;
    for (; place > 0 && choice[e] > choice[ids[place - 1]]; --place) ids[place] = ids[place - 1];
    ids[place] = e;
  }
  float sum = 0;
  for (int64_t i = 0; i < p.top_k; ++i) sum += gates[ids[i]];
  for (int64_t i = 0; i < p.top_k; ++i) {
    weights[i] = gates[ids[i]];
    if (p.normalise) weights[i] /= sum + 1e-20f;
    weights[i] *= p.scale;
  }
  if (p.joined < 0) return;
  ids[-1] = p.joined;
  weights[-1] = 1;
}

// Unsigned integers in the order of the floats; -0 counts as +0.
uint32_t ordered_bits(float score) {
  const auto bits = __builtin_bit_cast(uint32_t, score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The ordered bits of the k-th highest score, and in `above` how many lie strictly above it. Byte
// by byte from the top.
uint32_t kth_highest(const float* scores, int64_t n, int64_t k, int64_t* above) {
  uint32_t prefix = 0;
  *above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t histogram[256] = {};
    const uint32_t known = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = ordered_bits(scores[i]);
      if ((bits & known) == prefix) ++histogram[(bits >> shift) & 0xffu];
    }
    uint32_t digit = 255;
    while (*above + histogram[digit] < k) *above += histogram[digit--];
    prefix |= digit << shift;
  }
  return prefix;
}

}  // namespace

void embed(ThreadPool& pool, const EmbedParams& p) {
  pool.parallel_for(p.y.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (p.ids[t] < 0) {
        std::fill_n(p.y.row_as<float>(t), p.y.cols, 0.0F);
      } else {
        weight_row(p.table, p.ids[t], p.y.row_as<float>(t));
      }
    }
  });
}

void gather_rows(ThreadPool& pool, const GatherRowsParams& p) {
  pool.parallel_for(p.y.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      from_float(p.x.row_as<float>(p.rows[r]), p.x.cols, p.y.dtype, p.y.row(r));
    }
  });
}

void rope(ThreadPool& pool, const RopeParams& p) {
  pool.parallel_for(p.x.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    Floats head = make(p.head_dim);
    Floats cosines = make(p.rope_dim / 2);
    Floats sines = make(p.rope_dim / 2);
    for (int64_t t = begin; t < end; ++t) {
      rope_angles(p.positions[t], p.inv_freq, p.rope_dim, cosines.data(), sines.data());
      for (int64_t h = 0; h < p.heads; ++h) {
        const int64_t column = h * p.head_dim;
        to_float(p.x.row(t) + column * 4, DType::kF32, p.head_dim, head.data());
        rope_rotate(head.data() + p.rope_offset, p.rope_dim, cosines.data(), sines.data());
        from_float(head.data(), p.head_dim, p.y.dtype, p.y.row(t) + column * dtype_size(p.y.dtype));
      }
    }
  });
}

void latent_store(ThreadPool& pool, const LatentStoreParams& p) {
  pool.parallel_for(p.kv.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    Floats latent = make(p.kv.cols);
    Floats cosines = make(p.rope_dim / 2);
    Floats sines = make(p.rope_dim / 2);
    for (int64_t t = begin; t < end; ++t) {
      const int32_t position = p.batch.positions[t];
      to_float(p.kv.row(t), DType::kF32, p.kv.cols, latent.data());
      rms_norm_row(latent.data(), p.norm_weight, p.eps, p.kv_lora, latent.data());
      rope_angles(position, p.inv_freq, p.rope_dim, cosines.data(), sines.data());
      rope_rotate(latent.data() + p.kv_lora, p.rope_dim, cosines.data(), sines.data());
      const int32_t page = p.batch.page(p.batch.sequence_of[t], position);
      store_latent(p.cache, latent.data(), p.cache.token(page, position));
    }
  });
}

void index_key_store(ThreadPool& pool, const IndexKeyStoreParams& p) {
  const int64_t n = p.k.cols;
  pool.parallel_for(p.k.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    Floats key = make(n);
    Floats cosines = make(p.rope_dim / 2);
    Floats sines = make(p.rope_dim / 2);
    for (int64_t t = begin; t < end; ++t) {
      const int32_t position = p.batch.positions[t];
      to_float(p.k.row(t), DType::kF32, n, key.data());
      layer_norm_row(key.data(), p.norm_weight, p.norm_bias, p.eps, n);
      rope_angles(position, p.inv_freq, p.rope_dim, cosines.data(), sines.data());
      rope_rotate(key.data(), p.rope_dim, cosines.data(), sines.data());
      const int32_t page = p.batch.page(p.batch.sequence_of[t], position);
      if (p.cache.dtype == DType::kF32) {
        from_float(key.data(), n, DType::kF32, p.cache.key(page, position));
      } else {
        store_fp8_key(key.data(), n, p.cache.key(page, position), p.cache.scale(page, position));
      }
    }
  });
}

void index_gather(const IndexGatherParams& p) {
  const auto n = static_cast<size_t>(p.cache.head_dim);
  std::byte* key = p.keys;
  float* scale = p.scales;
  for (int64_t b = 0; b < p.sequences; ++b) {
    for (int32_t s = 0; s < p.seq_lens[b]; ++s, key += n, ++scale) {
      const int32_t page = p.page_table[b * p.page_table_width + s / kPageTokens];
      std::memcpy(key, p.cache.key(page, s), n);
      *scale = *p.cache.scale(page, s);
    }
  }
}

void router(ThreadPool& pool, const RouterParams& p) {
  pool.parallel_for(p.logits.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    Floats gates = make(p.logits.cols);
    Floats choice = make(p.logits.cols);
    for (int64_t t = begin; t < end; ++t) route_token(p, t, gates.data(), choice.data());
  });
}

void index_query(const IndexSelectParams& p, int64_t t, float* q) {
  const int64_t n = p.cache.head_dim;
  Floats cosines = make(p.rope_dim / 2);
  Floats sines = make(p.rope_dim / 2);
  rope_angles(p.batch.positions[t], p.inv_freq, p.rope_dim, cosines.data(), sines.data());
  to_float(p.q.row(t), DType::kF32, p.heads * n, q);
  for (int64_t h = 0; h < p.heads; ++h) {
    rope_rotate(q + h * n, p.rope_dim, cosines.data(), sines.data());
    if (p.cache.dtype == DType::kF8E4M3) hadamard_rotate(q + h * n, n);
  }
}

int32_t select_all(int64_t n, int64_t top_k, int32_t* selected) {
  for (int64_t i = 0; i < top_k; ++i) selected[i] = i < n ? static_cast<int32_t>(i) : -1;
  return static_cast<int32_t>(n);
}

int32_t select_top(const float* scores, int64_t n, int64_t top_k, int32_t* selected) {
  if (n <= top_k) return select_all(n, top_k, selected);
  int64_t above = 0;
  const uint32_t threshold = kth_highest(scores, n, top_k, &above);
  int64_t equal_left = top_k - above;
  int64_t count = 0;
  for (int64_t i = 0; i < n && count < top_k; ++i) {
    const uint32_t bits = ordered_bits(scores[i]);
    if (bits < threshold || (bits == threshold && equal_left == 0)) continue;
    if (bits == threshold) --equal_left;
    selected[count++] = static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(count);
}

}  // namespace longshore::kernels::scalar
