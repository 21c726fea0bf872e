#include "checkpoint/numbers.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace longshore {
namespace {

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 0x1FU;
  const uint32_t fraction = half & 0x3FFU;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t widened = exponent == 31 ? 0xFFU : exponent + 112;
  return std::bit_cast<float>(sign | widened << 23 | fraction << 13);
}

template <typename T>
T load(const std::byte* data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// All bits of `mask` set means NaN, or infinity where the format has one. Whole blocks first,
// without a branch, so that the compiler can vectorise.
template <typename T>
std::optional<int64_t> find_all_set(const std::byte* data, int64_t count, T mask) {
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    T found = 0;
    for (int64_t i = begin; i < end; ++i) {
      found = static_cast<T>(found | static_cast<T>((load<T>(data, i) & mask) == mask));
    }
    if (found == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((load<T>(data, i) & mask) == mask) return i;
    }
  }
  return std::nullopt;
}

}  // namespace

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

void convert_to_float(const std::byte* data, DType dtype, int64_t count, float* to) {
  LS_CHECK(is_float(dtype));
  if (dtype == DType::kF32) {
    if (count > 0) std::memcpy(to, data, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = load<uint16_t>(data, i);
    to[i] = dtype == DType::kBF16 ? std::bit_cast<float>(static_cast<uint32_t>(bits) << 16)
                                  : half_to_float(bits);
  }
}

std::optional<int64_t> find_not_finite(const std::byte* data, DType dtype, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return find_all_set<uint32_t>(data, count, 0x7F800000U);
    case DType::kBF16:
      return find_all_set<uint16_t>(data, count, 0x7F80U);
    case DType::kF16:
      return find_all_set<uint16_t>(data, count, 0x7C00U);
    case DType::kF8E4M3:
      return find_all_set<uint8_t>(data, count, 0x7FU);
    case DType::kI32:
    case DType::kI64:
    case DType::kU8:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace longshore
