#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"
#include "kernels/format/fp16.h"
#include "kernels/format/hadamard.h"
#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

// A binary floating-point format, by its definition, in double precision.
struct FormatSpec {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;

  [[nodiscard]] double value(uint32_t code) const {
    const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    const uint32_t exponent = (code >> mantissa_bits) & ((1u << exponent_bits) - 1);
    const bool negative = ((code >> (mantissa_bits + exponent_bits)) & 1) != 0;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const bool top = exponent == (1u << exponent_bits) - 1;
    double magnitude;
    if (top && has_infinity) {
      magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
    } else if (top && mantissa == (1u << mantissa_bits) - 1) {
      magnitude = std::nan("");
    } else if (exponent == 0) {
      magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
    } else {
      magnitude = std::ldexp((1u << mantissa_bits) + mantissa,
                             static_cast<int>(exponent) - bias - mantissa_bits);
    }
    return negative ? -magnitude : magnitude;
  }
  // The code of a finite value >= 0 by search: the nearest finite code, ties to the even one.
  // `largest` is the code of the largest finite value.
  [[nodiscard]] uint32_t nearest(double v, uint32_t largest) const {
    uint32_t low = 0;
    uint32_t high = largest;
    while (low < high) {
      const uint32_t middle = (low + high + 1) / 2;
      if (value(middle) <= v) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    if (low == largest) return low;
    const double below = v - value(low);
    const double above = value(low + 1) - v;
    if (below != above) return below < above ? low : low + 1;
    return low % 2 == 0 ? low : low + 1;
  }
};

constexpr FormatSpec kE4m3Spec{4, 3, false};
constexpr FormatSpec kBf16Spec{8, 7, true};
constexpr FormatSpec kFp16Spec{5, 10, true};

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

TEST(Codec, E4m3DecodesAllCodes) {
  for (uint32_t code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    EXPECT_TRUE(same(e4m3_decode(byte), kE4m3Spec.value(code))) << code;
    EXPECT_TRUE(same(e4m3_to_float(byte), kE4m3Spec.value(code))) << code;
    const uint8_t back = e4m3_from_float(e4m3_to_float(byte));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_EQ(back & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(back, code);
    }
  }
}

TEST(Codec, SixteenBitFormatsDecodeAllCodes) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto half = static_cast<uint16_t>(code);
    ASSERT_TRUE(same(bf16_to_float(half), kBf16Spec.value(code))) << code;
    ASSERT_TRUE(same(fp16_to_float(half), kFp16Spec.value(code))) << code;
    if (!std::isnan(bf16_to_float(half))) {
      ASSERT_EQ(bf16_from_float(bf16_to_float(half)), half);
    }
    if (!std::isnan(fp16_to_float(half))) {
      ASSERT_EQ(fp16_from_float(fp16_to_float(half)), half);
    }
  }
}

TEST(Codec, E4m3RoundsToNearestEvenAndSaturates) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const double middle = (kE4m3Spec.value(code) + kE4m3Spec.value(code + 1)) / 2;
    const auto tie = static_cast<float>(middle);
    values.insert(values.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)});
  }
  std::mt19937 random(test_seed());
  std::uniform_real_distribution<float> exponent(-14, 10);
  for (int i = 0; i < 20000; ++i) values.push_back(std::exp2(exponent(random)));
  for (float v : values) {
    EXPECT_EQ(e4m3_from_float(v), kE4m3Spec.nearest(v, 0x7e)) << v;
    EXPECT_EQ(e4m3_from_float(-v), kE4m3Spec.nearest(v, 0x7e) | 0x80) << v;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(e4m3_from_float(infinity), 0x7e);
  EXPECT_EQ(e4m3_from_float(-infinity), 0xfe);
  EXPECT_EQ(e4m3_from_float(-0.0f), 0x80);
  EXPECT_EQ(e4m3_from_float(std::nanf("")) & 0x7f, 0x7f);
}

TEST(Codec, SixteenBitFormatsRoundToNearestEven) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x7bff; code += 7) {
    const auto tie = static_cast<float>((kFp16Spec.value(code) + kFp16Spec.value(code + 1)) / 2);
    values.insert(values.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)});
  }
  for (float v : values) ASSERT_EQ(fp16_from_float(v), kFp16Spec.nearest(v, 0x7bff)) << v;
  values.clear();
  for (uint32_t code = 0; code < 0x7f7f; code += 7) {
    const auto tie = static_cast<float>((kBf16Spec.value(code) + kBf16Spec.value(code + 1)) / 2);
    values.insert(values.end(), {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e38f)});
  }
  for (float v : values) ASSERT_EQ(bf16_from_float(v), kBf16Spec.nearest(v, 0x7f7f)) << v;
  EXPECT_EQ(fp16_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(fp16_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(fp16_from_float(-1e9f), 0xfc00);
  EXPECT_EQ(bf16_from_float(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_float(bf16_from_float(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(fp16_to_float(fp16_from_float(std::bit_cast<float>(0xff800001u)))));
}

TEST(Hadamard, IsOrthonormalAndItsOwnInverse) {
  std::mt19937 random(test_seed());
  std::normal_distribution<float> normal;
  for (int64_t n : {1, 2, 40, 64, 96, 128, 130}) {
    std::vector<float> a(static_cast<size_t>(n));
    std::vector<float> b(static_cast<size_t>(n));
    for (float& v : a) v = normal(random);
    for (float& v : b) v = normal(random);
    double before = 0;
    for (size_t i = 0; i < a.size(); ++i) before += a[i] * b[i];
    std::vector<float> original = a;
    hadamard_rotate(a.data(), n);
    hadamard_rotate(b.data(), n);
    double after = 0;
    for (size_t i = 0; i < a.size(); ++i) after += a[i] * b[i];
    EXPECT_NEAR(before, after, 1e-4) << n;
    hadamard_rotate(a.data(), n);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], original[i], 1e-5);
  }
}

TEST(Hadamard, SplitsByBinaryDigits) {
  std::vector<float> x(40, 0.0f);
  x[0] = 1;
  x[33] = 1;
  hadamard_rotate(x.data(), 40);
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(x[i], 1 / std::sqrt(32.0), 1e-6);
  for (size_t i = 32; i < 40; ++i) {
    EXPECT_NEAR(x[i], (i % 2 == 0 ? 1 : -1) / std::sqrt(8.0), 1e-6);
  }
}

}  // namespace
}  // namespace longshore::kernels
