// Rows of matrices and weights as fp32, and the dot product of the scalar code.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/paged.h"

namespace longshore::kernels::scalar {

// Sum of a[i] * b[i] in fp32, by 16 partial sums that are added pairwise: the order depends on n
// alone.
[[nodiscard]] float dot(const float* a, const float* b, int64_t n);

// out [n] fp32 = n elements of dtype fp32, bf16 or fp16 at data, which needs no alignment.
void to_float(const std::byte* data, DType dtype, int64_t n, float* out);
// The reverse, for fp32 and bf16 (round to nearest even).
void from_float(const float* values, int64_t n, DType dtype, std::byte* out);

// A token's latent [c.width()] in the cache's format, at `token` of it.
void store_latent(const LatentCacheView& c, const float* values, std::byte* token);
void load_latent(const LatentCacheView& c, const std::byte* token, float* out);

// out [w.in] fp32 = row o of the weight.
void weight_row(const WeightView& w, int64_t o, float* out);

[[nodiscard]] float sigmoid(float x);
[[nodiscard]] float silu(float x);

// out = weight * (x * rsqrt(mean(x^2) + eps)); [n] each, out may be x.
void rms_norm_row(const float* x, const float* weight, float eps, int64_t n, float* out);

// The cosines and sines of one position: [rope_dim / 2] each. The angle is (float)position *
// inv_freq[i].
void rope_angles(int32_t position, const float* inv_freq, int64_t rope_dim, float* cosines,
                 float* sines);
// Rotates the pairs (x[0], x[1]), (x[2], x[3]), ... of x [rope_dim] in place.
void rope_rotate(float* x, int64_t rope_dim, const float* cosines, const float* sines);

}  // namespace longshore::kernels::scalar
