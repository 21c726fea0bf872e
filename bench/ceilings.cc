#include "bench/ceilings.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/buffer.h"

namespace longshore::bench {
namespace {

constexpr int64_t kBlock = 1 << 20;
std::atomic<uint64_t> g_sink;  // keeps the reads alive

// The sum (or exclusive or) of all words, by the widest loads of this machine; count is a multiple
// of 32.
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

[[gnu::target("avx2")]] uint64_t sum_avx2(const uint64_t* data, int64_t count) {
  __m256i lanes[4];  // NOLINT: std::array drops the type's alignment attribute
  for (__m256i& lane : lanes) lane = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 16) {
    for (int64_t lane = 0; lane < 4; ++lane) {
      const auto* from = reinterpret_cast<const __m256i*>(data + i + 4 * lane);
      lanes[lane] = _mm256_xor_si256(lanes[lane], _mm256_loadu_si256(from));
    }
  }
  uint64_t words[4];  // NOLINT: a plain target of the store
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(words),
      _mm256_xor_si256(_mm256_xor_si256(lanes[0], lanes[1]), _mm256_xor_si256(lanes[2], lanes[3])));
  return words[0] ^ words[1] ^ words[2] ^ words[3];
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
  switch (load_bits()) {
    case 512:
      return sum_avx512(data, count);
    case 256:
      return sum_avx2(data, count);
    default:
      return sum_generic(data, count);
  }
}

void fill(ThreadPool& pool, const device::Buffer& buffer, const CancelToken& cancel) {
  pool.parallel_for(buffer.bytes() / kBlock, 8, [&](int64_t begin, int64_t end, int) {
    if (cancel.cancelled()) return;
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

[[gnu::target("avx512f,avx512bf16")]] float dot_avx512() {
  __m512 sums[kChains];  // NOLINT: std::array drops the type's alignment attribute
  for (size_t i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3c00);
  const __m512bh b = (__m512bh)_mm512_set1_epi16(0x3c01);
  for (int64_t n = 0; n < kIterations; ++n) {
    for (size_t i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_cvtss_f32(sum);
  return total;
}

// Linux gives a process the tiles' state only when asked (Documentation/arch/x86/xstate.rst).
bool may_use_amx() {
  constexpr int kAskPermission = 0x1023;
  constexpr int kTileData = 18;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kAmxBf16 = 1U << 22;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0 &&
         syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0;
}

constexpr int64_t kTileIterations = 2'000'000;
constexpr int kTileSums = 4;
constexpr double kTileFlops = 2.0 * 16 * 16 * 32;

[[gnu::target("amx-tile,amx-bf16")]] void tiles_amx(bool zeros) {
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};    // NOLINT: the processor's layout
    uint16_t row_bytes[16] = {};  // NOLINT
    uint8_t rows[16] = {};        // NOLINT
  } config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  asm volatile(
      "" ::
          : "memory");  // the compiler does not know that the next line reads the structure
  _tile_loadconfig(&config);
  alignas(64) uint16_t operands[4][512];  // NOLINT: four tiles of bf16, zeros or in +-[0.25, 4)
  uint32_t random = 1;
  for (auto& tile : operands) {
    for (uint16_t& value : tile) {
      random = random * 1664525U + 1013904223U;
      const uint32_t number = ((random >> 16U) & 0x8000U) | (0x3E80U + (random >> 20U) % 512U);
      value = zeros ? 0 : static_cast<uint16_t>(number);
    }
  }
  asm volatile("" ::: "memory");
  _tile_loadd(4, operands[0], 64);
  _tile_loadd(5, operands[1], 64);
  _tile_loadd(6, operands[2], 64);
  _tile_loadd(7, operands[3], 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t n = 0; n < kTileIterations; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

double amx_gflops(ThreadPool& pool, bool zeros) {
  const Stopwatch watch;
  pool.run([zeros](int) { tiles_amx(zeros); });
  return kTileFlops * kTileSums * static_cast<double>(kTileIterations) * pool.size() /
         watch.seconds() / 1e9;
}

}  // namespace

void read_once(ThreadPool& pool, const std::byte* data, int64_t bytes) {
  LS_CHECK(bytes % kBlock == 0);
  pool.parallel_for(bytes / kBlock, 4, [&](int64_t begin, int64_t end, int) {
    const auto* words = reinterpret_cast<const uint64_t*>(data) + begin * kBlock / 8;
    g_sink.fetch_add(sum(words, (end - begin) * kBlock / 8), std::memory_order_relaxed);
  });
}

int load_bits() {
  static const int bits = __builtin_cpu_supports("avx512f") != 0 ? 512
                          : __builtin_cpu_supports("avx2") != 0  ? 256
                                                                 : 128;
  return bits;
}

Result<double> dram_read_gbs(ThreadPool& pool, const CancelToken& cancel) {
  const int64_t bytes =
      std::min<int64_t>(int64_t{8} << 30, available_memory() / 3) / kBlock * kBlock;
  LS_TRY(const device::Buffer buffer, device::Buffer::allocate(bytes, "bandwidth buffer"));
  fill(pool, buffer, cancel);
  std::vector<double> rates;
  for (int pass = 0; pass < 6; ++pass) {
    if (cancel.cancelled())
      return fail(ErrorKind::kCancelled, "stopped while measuring the ceilings");
    const Stopwatch watch;
    read_once(pool, buffer.data(), bytes);
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
  return 2.0 * lanes * kChains * static_cast<double>(kIterations) * pool.size() / watch.seconds() /
         1e9;
}

Bf16Peak bf16_peak(ThreadPool& pool) {
  if (may_use_amx()) return {"AMX", amx_gflops(pool, false), amx_gflops(pool, true)};
  if (__builtin_cpu_supports("avx512bf16") == 0) return {"fp32 FMA", fma_gflops(pool)};
  const Stopwatch watch;
  pool.run([](int) {
    g_sink.fetch_add(static_cast<uint64_t>(dot_avx512()), std::memory_order_relaxed);
  });
  const double flops = 4.0 * 16 * kChains * static_cast<double>(kIterations) * pool.size();
  return {"AVX-512 BF16", flops / watch.seconds() / 1e9};
}

}  // namespace longshore::bench
