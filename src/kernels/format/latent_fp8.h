// FP8 latents: which scale a group of columns takes. Where the parts of a token lie says
// LatentCacheView (kernels/paged.h).
//
// The scale is the least power of two with which the group's largest magnitude fits FP8's 448. FP8
// is a floating-point format, so a power of two loses nothing that amax / 448 would keep, and value
// = code * scale is exact in bf16: every backend computes from the same numbers.
#pragma once

#include <cstdint>

#include "kernels/format/codec.h"

namespace longshore::kernels {

constexpr int64_t kLatentGroup = 128;  // columns that share a scale

// amax: the group's largest magnitude; infinity and NaN are their own scale, so that the group
// decodes to no finite number. At least 2^-100: a group of zeros has a scale too.
LS_CODEC float latent_scale(float amax) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, amax);
  const uint32_t exponent = bits >> 23;
  if (exponent == 0xff) return amax;
  constexpr uint32_t kLeast = 127 - 100;
  constexpr uint32_t kLargest = 0x600000;  // the mantissa of 448 = 1.75 * 2^8
  const uint32_t above = (bits & 0x7fffffu) > kLargest ? 1u : 0u;
  const uint32_t wanted = exponent + above;
  return __builtin_bit_cast(float, (wanted < kLeast + 8 ? kLeast : wanted - 8) << 23);
}

}  // namespace longshore::kernels
