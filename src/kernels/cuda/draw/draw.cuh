// What the kernels of the draw share: keys, masses, a row's state.
#pragma once

#include "kernels/cuda/common/elements.cuh"
#include "kernels/ops_sample.h"

namespace longshore::kernels::cuda {

constexpr int kThreads = 256;
constexpr int64_t kPerThread = 4;  // logits of a row at least, where it goes to many blocks
constexpr int64_t kPerBlock = int64_t{1} << 16;  // at most
constexpr int64_t kMostLogits = int64_t{1} << 19;

// A mass as a whole number of 2^-44, so that the sum of kMostLogits of them fits 64 bits. It is at
// most 2^44: 45 bits in parts of 15, each of which a block may add up 2^17 times in 32 bits.
using Mass = unsigned long long;
constexpr int kMassBits = 44;
constexpr int kMassParts = 3;
constexpr int kPartBits = 15;
static_assert(kMassParts * kPartBits > kMassBits);
static_assert(kPerBlock < int64_t{1} << (32 - kPartBits));

// A key has three digits.
constexpr int kLevels = 3;
template <int kLevel>
constexpr int kBits = kLevel == 2 ? 10 : 11;
template <int kLevel>
constexpr int kShift = kLevel == 0   ? 21
                       : kLevel == 1 ? 10
                                     : 0;

enum class Stage { kTopK, kTopP, kDraw };

struct Row {
  float highest;    // logit
  bool draws;       // there is more to do than to take the highest
  unsigned ended;   // blocks of the kernel that runs
  uint32_t prefix;  // digits that are known
  Mass left;        // what the running sum must be above among the logits with that prefix
  Mass before;      // mass of the logits above these
  Mass total;       // of all
  Mass likely;      // of those with at least min_p
  Mass kept;        // of the first top_k
  Mass cut;         // of the first part that reaches top_p
};

// Of the logits with one digit. Zero between the kernels.
struct Histogram {
  Mass mass[1 << 11];
  uint32_t count[1 << 11];
};

// Higher logits have higher keys; -0 counts as +0. Of finite logits.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ double mass_of(float logit, float highest, float temperature) {
  return exp((static_cast<double>(logit) - static_cast<double>(highest)) /
             static_cast<double>(temperature));
}
__device__ __forceinline__ Mass whole_mass(double mass) {
  return static_cast<Mass>(__double2ull_rn(mass * static_cast<double>(Mass{1} << kMassBits)));
}

// A place in the order of choice: the logit's key above, the complement of its index below, so that
// the highest number is the highest logit, the lowest index of several.
using Place = unsigned long long;
constexpr Place kNotFinite = ~Place{0};  // above every number's

__device__ __forceinline__ Place place_of(float logit, int64_t index) {
  if ((__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u) return kNotFinite;
  return Place{key_of(logit)} << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}

struct HighestSearch {
  DrawParams p;
  Place* parts;
};

__device__ __forceinline__ const float* row_of(const DrawParams& p, unsigned row) {
  return reinterpret_cast<const float*>(p.logits.data) + int64_t{row} * p.logits.stride;
}
__device__ __forceinline__ int64_t first_of_thread() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

__device__ __forceinline__ Place warp_highest(Place best) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    best = max(best, __shfl_xor_sync(0xffffffffu, best, lanes));
  }
  return best;
}
__device__ __forceinline__ Mass warp_sum_of(Mass value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}

// The sum over the block's threads below this one. warps [kThreads / kWarp] shared, for this call
// alone.
__device__ __forceinline__ Mass sum_before(Mass value, Mass* warps) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  Mass sum = value;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const Mass other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == kWarp - 1) warps[warp] = sum;
  __syncthreads();
  Mass before = sum - value;
  for (int w = 0; w < warp; ++w) before += warps[w];
  return before;
}

}  // namespace longshore::kernels::cuda
