#include "bench/expert_bank.h"

#include <cstring>
#include <random>

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

}  // namespace

Result<ExpertBank> ExpertBank::create(ThreadPool& pool, int64_t experts, uint64_t seed) {
  ExpertBank bank;
  LS_TRY(bank.codes_, device::Buffer::allocate(experts * kExpertBytes, "bank of experts"));
  pool.parallel_for(experts * 3, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * kMatrix / 8; i < end * kMatrix / 8; ++i) {
      const uint64_t codes = random_codes(seed * 0x100000000U + static_cast<uint64_t>(i));
      std::memcpy(bank.codes_.data() + i * 8, &codes, 8);
    }
  });
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> scale(0.5F * kScale, 1.5F * kScale);
  bank.scales_.resize(static_cast<size_t>(experts * 3 * kScales));
  for (float& value : bank.scales_) value = scale(random);
  for (int64_t e = 0; e < experts; ++e) {
    const auto matrix = [&](int64_t which, int64_t out, int64_t in) {
      WeightView w;
      w.data = bank.codes_.data() + (3 * e + which) * kMatrix;
      w.dtype = DType::kF8E4M3;
      w.out = out;
      w.in = in;
      w.scale = bank.scales_.data() + (3 * e + which) * kScales;
      w.scale_stride = in / kBlock;
      return w;
    };
    bank.views_.push_back({matrix(0, kIntermediate, kHidden), matrix(1, kIntermediate, kHidden),
                           matrix(2, kHidden, kIntermediate)});
  }
  return bank;
}

}  // namespace longshore::bench
