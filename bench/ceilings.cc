#include "bench/ceilings.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "base/clock.h"
#include "base/memory.h"
#include "device/buffer.h"

namespace longshore::bench {
namespace {

constexpr int64_t kBlock = 1 << 20;
std::atomic<uint64_t> g_sink;  // keeps the reads alive

// The sum (or exclusive or) of all words, by the widest loads of this machine; count is a multiple of 32.
[[gnu::target("avx512f")]] uint64_t sum_avx512(const uint64_t* data, int64_t count) {
  __m512i lanes[4];  // NOLINT: std::array drops the type's alignment attribute
  for (__m512i& lane : lanes) lane = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 32) {
    for (int64_t lane = 0; lane < 4; ++lane) {
      lanes[lane] = _mm512_xor_si512(lanes[lane], _mm512_loadu_si512(data + i + 8 * lane));
    }
  }
  uint64_t words[8];  // NOLINT: a plain target of the store
  _mm512_storeu_si512(words, _mm512_xor_si512(_mm512_xor_si512(lanes[0], lanes[1]),
                                              _mm512_xor_si512(lanes[2], lanes[3])));
  uint64_t total = 0;
  for (const uint64_t word : words) total ^= word;
  return total;
}

uint64_t sum_generic(const uint64_t* data, int64_t count) {
  std::array<uint64_t, 16> lanes{};
  for (int64_t i = 0; i < count; i += 16) {
    for (size_t lane = 0; lane < 16; ++lane) lanes[lane] += data[static_cast<size_t>(i) + lane];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}

uint64_t sum(const uint64_t* data, int64_t count) {
  static const bool avx512 = __builtin_cpu_supports("avx512f") != 0;
  return avx512 ? sum_avx512(data, count) : sum_generic(data, count);
}

void fill(ThreadPool& pool, const device::Buffer& buffer) {
  pool.parallel_for(buffer.bytes() / kBlock, 8, [&](int64_t begin, int64_t end, int) {
    auto* words = reinterpret_cast<uint64_t*>(buffer.data());
    for (int64_t i = begin * kBlock / 8; i < end * kBlock / 8; ++i) {
      words[i] = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ULL;
    }
  });
}

constexpr int64_t kIterations = 20'000'000;
constexpr int kChains = 12;  // enough independent sums to cover the latency of a multiply-add

[[gnu::target("avx512f")]] float fma_avx512() {
  __m512 sums[kChains];  // NOLINT: std::array drops the type's alignment attribute
  for (size_t i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999F);
  const __m512 b = _mm512_set1_ps(0.001F);
  for (int64_t n = 0; n < kIterations; ++n) {
    for (size_t i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_cvtss_f32(sum);
  return total;
}

[[gnu::target("avx2,fma")]] float fma_avx2() {
  __m256 sums[kChains];  // NOLINT: std::array drops the type's alignment attribute
  for (size_t i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999F);
  const __m256 b = _mm256_set1_ps(0.001F);
  for (int64_t n = 0; n < kIterations; ++n) {
    for (size_t i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  float total = 0;
  for (const __m256& sum : sums) total += _mm256_cvtss_f32(sum);
  return total;
}

float mul_add_sse() {
  __m128 sums[kChains];  // NOLINT: std::array drops the type's alignment attribute
  for (size_t i = 0; i < kChains; ++i) sums[i] = _mm_set1_ps(static_cast<float>(i));
  const __m128 a = _mm_set1_ps(0.999F);
  const __m128 b = _mm_set1_ps(0.001F);
  for (int64_t n = 0; n < kIterations; ++n) {
    for (size_t i = 0; i < kChains; ++i) sums[i] = _mm_add_ps(_mm_mul_ps(sums[i], a), b);
  }
  float total = 0;
  for (const __m128& sum : sums) total += _mm_cvtss_f32(sum);
  return total;
}

}  // namespace

Result<double> dram_read_gbs(ThreadPool& pool) {
  const int64_t bytes = std::min<int64_t>(int64_t{8} << 30, available_memory() / 3) / kBlock * kBlock;
  LS_TRY(const device::Buffer buffer, device::Buffer::allocate(bytes, "bandwidth buffer"));
  fill(pool, buffer);
  std::vector<double> rates;
  for (int pass = 0; pass < 6; ++pass) {
    const Stopwatch watch;
    pool.parallel_for(bytes / kBlock, 4, [&](int64_t begin, int64_t end, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(buffer.data()) + begin * kBlock / 8;
      g_sink.fetch_add(sum(words, (end - begin) * kBlock / 8), std::memory_order_relaxed);
    });
    if (pass > 0) rates.push_back(static_cast<double>(bytes) / watch.seconds() / 1e9);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

double fma_gflops(ThreadPool& pool) {
  const bool avx512 = __builtin_cpu_supports("avx512f") != 0;
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const int lanes = avx512 ? 16 : avx2 ? 8 : 4;
  const Stopwatch watch;
  pool.run([&](int) {
    const float total = avx512 ? fma_avx512() : avx2 ? fma_avx2() : mul_add_sse();
    g_sink.fetch_add(static_cast<uint64_t>(total), std::memory_order_relaxed);
  });
  return 2.0 * lanes * kChains * static_cast<double>(kIterations) * pool.size() / watch.seconds() / 1e9;
}

}  // namespace longshore::bench
