// bfloat16: the upper half of an fp32. Stored as uint16_t.
#pragma once

#include <cstdint>

#include "kernels/format/codec.h"

namespace longshore::kernels {

LS_CODEC float bf16_to_float(uint16_t code) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(code) << 16);
}

// Round to nearest, ties to even; a NaN stays a NaN (quiet), overflow becomes infinity.
LS_CODEC uint16_t bf16_from_float(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace longshore::kernels
