#include "kernels/scalar/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/format/bf16.h"
#include "kernels/format/block_scale.h"
#include "kernels/format/e4m3.h"
#include "kernels/format/fp16.h"

namespace longshore::kernels::scalar {
namespace {

uint16_t load_u16(const std::byte* data) {
  uint16_t code;
  std::memcpy(&code, data, sizeof(code));
  return code;
}

void fp8_row(const WeightView& w, int64_t o, float* out) {
  const auto* codes = reinterpret_cast<const uint8_t*>(w.row(o));
  const float* scales = scale_row(w, o);
  for (int64_t begin = 0; begin < w.in;) {
    const int64_t end = block_end(w, begin);
    const float scale = scales[begin / w.block_cols];
    for (int64_t i = begin; i < end; ++i) out[i] = e4m3_to_float(codes[i]) * scale;
    begin = end;
  }
}

// Largest magnitude; NaN if there is one. Magnitudes have the order of their bits.
float highest_magnitude(const float* values, int64_t n) {
  uint32_t highest = 0;
  for (int64_t i = 0; i < n; ++i) {
    highest = std::max(highest, __builtin_bit_cast(uint32_t, values[i]) & 0x7fffffffu);
  }
  return __builtin_bit_cast(float, highest);
}

}  // namespace

float dot(const float* a, const float* b, int64_t n) {
  constexpr int kSums = 16;
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i + j < n; ++j) sums[j] += a[i + j] * b[i + j];
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

void to_float(const std::byte* data, DType dtype, int64_t n, float* out) {
  if (n == 0) return;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, data, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(load_u16(data + 2 * i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = fp16_to_float(load_u16(data + 2 * i));
      return;
    default:
      LS_FAIL("{} is no floating-point row", dtype_name(dtype));
  }
}

void from_float(const float* values, int64_t n, DType dtype, std::byte* out) {
  if (n == 0) return;
  if (dtype == DType::kF32) {
    std::memcpy(out, values, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  LS_CHECK(dtype == DType::kBF16);
  auto* codes = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < n; ++i) codes[i] = bf16_from_float(values[i]);
}

void store_latent(const LatentCacheView& c, const float* values, std::byte* token) {
  if (c.dtype != DType::kF8E4M3) return from_float(values, c.width(), c.dtype, token);
  auto* codes = reinterpret_cast<uint8_t*>(token);
  auto* scales = reinterpret_cast<float*>(token + LatentCacheView::scales_at(c.kv_lora));
  for (int64_t begin = 0; begin < c.kv_lora; begin += kLatentGroup) {
    const int64_t end = std::min(begin + kLatentGroup, c.kv_lora);
    const float scale = latent_scale(highest_magnitude(values + begin, end - begin));
    for (int64_t i = begin; i < end; ++i) codes[i] = e4m3_from_float(values[i] / scale);
    *scales++ = scale;
  }
  for (int64_t i = c.kv_lora; i < LatentCacheView::scales_at(c.kv_lora); ++i) codes[i] = 0;
  from_float(values + c.kv_lora, c.rope_dim, DType::kBF16,
             token + LatentCacheView::rope_at(c.kv_lora));
}

void load_latent(const LatentCacheView& c, const std::byte* token, float* out) {
  if (c.dtype != DType::kF8E4M3) return to_float(token, c.dtype, c.width(), out);
  const auto* codes = reinterpret_cast<const uint8_t*>(token);
  const auto* scales =
      reinterpret_cast<const float*>(token + LatentCacheView::scales_at(c.kv_lora));
  for (int64_t i = 0; i < c.kv_lora; ++i) {
    out[i] = e4m3_to_float(codes[i]) * scales[i / kLatentGroup];
  }
  to_float(token + LatentCacheView::rope_at(c.kv_lora), DType::kBF16, c.rope_dim, out + c.kv_lora);
}

void weight_row(const WeightView& w, int64_t o, float* out) {
  if (w.dtype == DType::kF8E4M3) return fp8_row(w, o, out);
  to_float(w.row(o), w.dtype, w.in, out);
}

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

float silu(float x) {
  return x / (1.0f + std::exp(-x));
}

void rms_norm_row(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const float norm = 1.0f / std::sqrt(mean + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = weight[i] * (x[i] * norm);
}

void rope_angles(int32_t position, const float* inv_freq, int64_t rope_dim, float* cosines,
                 float* sines) {
  for (int64_t i = 0; i < rope_dim / 2; ++i) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    cosines[i] = std::cos(angle);
    sines[i] = std::sin(angle);
  }
}

void rope_rotate(float* x, int64_t rope_dim, const float* cosines, const float* sines) {
  for (int64_t i = 0; i < rope_dim / 2; ++i) {
    const float even = x[2 * i];
    const float odd = x[2 * i + 1];
    x[2 * i] = even * cosines[i] - odd * sines[i];
    x[2 * i + 1] = odd * cosines[i] + even * sines[i];
  }
}

}  // namespace longshore::kernels::scalar
