// FP8 E4M3 in its "fn" variant: no infinities, NaN is 0x7f and 0xff, the largest value is 448.
// Stored as uint8_t. Source: "FP8 Formats for Deep Learning" (Micikevicius et al., 2022).
#pragma once

#include <cstdint>

#include "kernels/format/codec.h"

namespace longshore::kernels {

constexpr float kE4m3Max = 448.0f;

// The definition, bit by bit; kE4m3.values is the same and faster.
LS_CODEC float e4m3_decode(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return __builtin_bit_cast(float, sign | 0x7fc00000u);
  if (magnitude < 8) {
    const float value = static_cast<float>(magnitude) * 0x1p-9f;
    return sign != 0 ? -value : value;
  }
  return __builtin_bit_cast(float, sign | ((magnitude << 20) + (120u << 23)));
}

struct E4m3Table {
  float values[256];
};
constexpr E4m3Table make_e4m3_table() {
  E4m3Table table{};
  for (int code = 0; code < 256; ++code) {
    table.values[code] = e4m3_decode(static_cast<uint8_t>(code));
  }
  return table;
}
inline constexpr E4m3Table kE4m3 = make_e4m3_table();

LS_CODEC float e4m3_to_float(uint8_t code) {
  return kE4m3.values[code];
}

// Round to nearest, ties to even; magnitudes above 448, infinity included, become 448; a NaN stays
// a NaN.
LS_CODEC uint8_t e4m3_from_float(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);  // 448 and above
  if (magnitude < 0x3c800000u) {
    // Below 2^-6 the codes are multiples of 2^-9, which is the spacing of fp32 at 2^14: the
    // addition rounds.
    const float shifted = __builtin_bit_cast(float, magnitude) + 16384.0f;
    return static_cast<uint8_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

}  // namespace longshore::kernels
