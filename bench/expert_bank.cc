#include "bench/expert_bank.h"

#include <cstring>
#include <random>

#include "base/check.h"
#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"

namespace longshore::bench {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kMatrix = ExpertBank::kHidden * ExpertBank::kIntermediate;
constexpr int64_t kScales = kMatrix / (kBlock * kBlock);
// Uniform codes have a standard deviation of about 110; weights of 0.02 keep the activations
// near 1.
constexpr float kScale = 0.02F / 110;

// Eight random codes; the two NaN codes 0x7f and 0xff become 0x3f and 0xbf.
uint64_t random_codes(uint64_t i) {
  uint64_t x = i * 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  x ^= x >> 31U;
  constexpr uint64_t kMagnitudes = 0x7F7F7F7F7F7F7F7FU;
  const uint64_t nan = ((x & kMagnitudes) + 0x0101010101010101U) & ~kMagnitudes;
  return x ^ (nan >> 1U);
}

// [kMatrix] at `codes`, FP8 or widened to bf16.
void fill_matrix(uint64_t seed, int64_t matrix, DType dtype, std::byte* weights) {
  for (int64_t i = 0; i < kMatrix / 8; ++i) {
    const uint64_t codes =
        random_codes(seed * 0x100000000U + static_cast<uint64_t>(matrix * kMatrix / 8 + i));
    if (dtype == DType::kF8E4M3) {
      std::memcpy(weights + i * 8, &codes, 8);
      continue;
    }
    uint16_t values[8];
    for (int k = 0; k < 8; ++k) {
      const auto code = static_cast<uint8_t>(codes >> (8U * static_cast<unsigned>(k)));
      values[k] = kernels::bf16_from_float(kernels::e4m3_to_float(code) * kScale);
    }
    std::memcpy(weights + i * 16, values, 16);
  }
}

}  // namespace

Result<ExpertBank> ExpertBank::create(ThreadPool& pool, int64_t experts, uint64_t seed,
                                      DType dtype) {
  LS_CHECK(dtype == DType::kF8E4M3 || dtype == DType::kBF16);
  const bool fp8 = dtype == DType::kF8E4M3;
  const int64_t matrix_bytes = kMatrix * dtype_size(dtype);
  ExpertBank bank;
  LS_TRY(bank.weights_, device::Buffer::allocate(experts * 3 * matrix_bytes, "bank of experts"));
  pool.parallel_for(experts * 3, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      fill_matrix(seed, i, dtype, bank.weights_.data() + i * matrix_bytes);
    }
  });
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> scale(0.5F * kScale, 1.5F * kScale);
  if (fp8) bank.scales_.resize(static_cast<size_t>(experts * 3 * kScales));
  for (float& value : bank.scales_) value = scale(random);
  for (int64_t e = 0; e < experts; ++e) {
    const auto matrix = [&](int64_t which, int64_t out, int64_t in) {
      WeightView w;
      w.data = bank.weights_.data() + (3 * e + which) * matrix_bytes;
      w.dtype = dtype;
      w.out = out;
      w.in = in;
      if (fp8) {
        w.scale = bank.scales_.data() + (3 * e + which) * kScales;
        w.scale_stride = in / kBlock;
      }
      return w;
    };
    bank.views_.push_back({matrix(0, kIntermediate, kHidden), matrix(1, kIntermediate, kHidden),
                           matrix(2, kHidden, kIntermediate)});
  }
  return bank;
}

}  // namespace longshore::bench
