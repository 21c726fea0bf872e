// The rotation of index queries and keys before FP8: spreads outliers over all columns and leaves
// dot products as they are.
//
// The vector is split from the left into blocks of powers of two, the binary digits of its length,
// largest first (128 = 128, 40 = 32 + 8, 96 = 64 + 32); each block is multiplied by its
// Walsh-Hadamard matrix (natural order) divided by sqrt(block). The whole is orthonormal, symmetric
// and its own inverse.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace longshore::kernels {

// x [n] fp32, in place; n a power of two.
inline void hadamard_block(float* x, int64_t n) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t start = 0; start < n; start += 2 * half) {
      for (int64_t i = start; i < start + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float norm = 1.0f / std::sqrt(static_cast<float>(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= norm;
}

// x [n] fp32, in place; any n >= 0.
inline void hadamard_rotate(float* x, int64_t n) {
  while (n > 0) {
    const auto block = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n)));
    hadamard_block(x, block);
    x += block;
    n -= block;
  }
}

}  // namespace longshore::kernels
