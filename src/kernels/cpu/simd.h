// Vectors of fp32 of one instruction set, chosen by the compiler's flags: 4 lanes with plain
// x86-64, 8 with AVX2, 16 with AVX-512 (with or without products of bf16). For *.isa.cc files only,
// each of which is compiled once per instruction set with LONGSHORE_ISA naming it.
//
// Everything here has internal linkage: these files share no function with the rest of the program,
// or the linker could pick a copy that this machine cannot run. For the same reason they include
// nothing with ordinary inline functions.
//
// Loads and stores need no alignment.
#pragma once

#include <cstdint>
#include <cstring>

#include <immintrin.h>

#include "kernels/cpu/kernel_table.h"
#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"
#include "kernels/format/fp16.h"

#ifndef LONGSHORE_ISA
#error "simd.h is for files that are compiled per instruction set"
#endif

namespace longshore::kernels::cpu::LONGSHORE_ISA {
namespace {

#define LS_SIMD [[gnu::always_inline, maybe_unused]] inline

constexpr int64_t kChunk =
    64;  // elements that a row is decoded by; prepared inputs are padded to it

#if defined(__AVX512VBMI__)

using Vec = __m512;
constexpr int kLanes = 16;
#if defined(__AVX512BF16__)
constexpr InputKind kNarrow = InputKind::kPairs;  // products of bf16 pairs
#else
constexpr InputKind kNarrow = InputKind::kSplit;
#endif

LS_SIMD Vec zero() {
  return _mm512_setzero_ps();
}
LS_SIMD Vec broadcast(float x) {
  return _mm512_set1_ps(x);
}
LS_SIMD Vec load(const void* p) {
  return _mm512_loadu_ps(p);
}
LS_SIMD void store(void* p, Vec v) {
  _mm512_storeu_ps(p, v);
}
LS_SIMD Vec add(Vec a, Vec b) {
  return _mm512_add_ps(a, b);
}
LS_SIMD Vec sub(Vec a, Vec b) {
  return _mm512_sub_ps(a, b);
}
LS_SIMD Vec mul(Vec a, Vec b) {
  return _mm512_mul_ps(a, b);
}
LS_SIMD Vec div(Vec a, Vec b) {
  return _mm512_div_ps(a, b);
}
LS_SIMD Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}  // b where one is NaN
LS_SIMD Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}
LS_SIMD Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
LS_SIMD float sum(Vec v) {
  return _mm512_reduce_add_ps(v);
}
LS_SIMD Vec load_bf16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
LS_SIMD Vec load_fp16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
// x rounded to an integer, and 2 to that power.
LS_SIMD Vec round_pow2(Vec x, Vec* power) {
  const __m512i n = _mm512_cvtps_epi32(x);
  *power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
  return _mm512_cvtepi32_ps(n);
}

#if defined(__AVX512BF16__)
// acc + a0 * b0 + a1 * b1 of the bf16 pairs in each lane.
LS_SIMD Vec dot_pairs(Vec acc, Vec a, Vec b) {
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
#endif

// The first and the second of the two bf16 in each lane.
LS_SIMD Vec even_of_pairs(Vec pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
LS_SIMD Vec odd_of_pairs(Vec pairs) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), upper));
}

// The upper and lower bytes of the bf16 of every magnitude code.
struct Fp8Bytes {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};
constexpr Fp8Bytes make_fp8_bytes() {
  Fp8Bytes bytes{};
  for (int code = 0; code < 128; ++code) {
    const uint16_t half = bf16_from_float(e4m3_decode(static_cast<uint8_t>(code)));
    bytes.high[code] = static_cast<uint8_t>(half >> 8);
    bytes.low[code] = static_cast<uint8_t>(half & 0xff);
  }
  return bytes;
}
constexpr Fp8Bytes kFp8Bytes = make_fp8_bytes();

// 64 FP8 codes at p as 64 bf16 in order: pairs[0] holds 0-31, pairs[1] 32-63. Exact.
LS_SIMD void load_fp8_pairs(const void* p, Vec pairs[2]) {
  const __m512i order =
      _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the unpacking within 128-bit lanes
  const __m512i codes = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(p));
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Bytes.low), codes,
                                               _mm512_load_si512(kFp8Bytes.low + 64));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Bytes.high), codes,
                                                     _mm512_load_si512(kFp8Bytes.high + 64));
  // magnitude | (codes & 0x80)
  const __m512i high =
      _mm512_ternarylogic_epi64(magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
  pairs[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high));
  pairs[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high));
}

// Transposes the 16 x 16 words in v.
LS_SIMD void transpose(Vec* v) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
  }
}

#elif defined(__AVX2__)

using Vec = __m256;
constexpr int kLanes = 8;
constexpr InputKind kNarrow = InputKind::kF32;

LS_SIMD Vec zero() {
  return _mm256_setzero_ps();
}
LS_SIMD Vec broadcast(float x) {
  return _mm256_set1_ps(x);
}
LS_SIMD Vec load(const void* p) {
  return _mm256_loadu_ps(static_cast<const float*>(p));
}
LS_SIMD void store(void* p, Vec v) {
  _mm256_storeu_ps(static_cast<float*>(p), v);
}
LS_SIMD Vec add(Vec a, Vec b) {
  return _mm256_add_ps(a, b);
}
LS_SIMD Vec sub(Vec a, Vec b) {
  return _mm256_sub_ps(a, b);
}
LS_SIMD Vec mul(Vec a, Vec b) {
  return _mm256_mul_ps(a, b);
}
LS_SIMD Vec div(Vec a, Vec b) {
  return _mm256_div_ps(a, b);
}
LS_SIMD Vec max(Vec a, Vec b) {
  return _mm256_max_ps(a, b);
}  // b where one is NaN
LS_SIMD Vec min(Vec a, Vec b) {
  return _mm256_min_ps(a, b);
}
LS_SIMD Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
LS_SIMD float sum(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
LS_SIMD Vec load_bf16(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
LS_SIMD Vec load_fp16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// By way of fp16, which has room for every code at 1/256 of its value and converts subnormals at
// full speed.
LS_SIMD Vec load_fp8(const void* p) {
  const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(codes, _mm_set1_epi16(0x80)), 8);
  const __m128i nan = _mm_srli_epi16(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), 1);
  const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}
LS_SIMD Vec round_pow2(Vec x, Vec* power) {
  const __m256i n = _mm256_cvtps_epi32(x);
  *power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  return _mm256_cvtepi32_ps(n);
}
LS_SIMD void transpose(Vec* v) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}

#else

using Vec = __m128;
constexpr int kLanes = 4;
constexpr InputKind kNarrow = InputKind::kF32;

LS_SIMD Vec zero() {
  return _mm_setzero_ps();
}
LS_SIMD Vec broadcast(float x) {
  return _mm_set1_ps(x);
}
LS_SIMD Vec load(const void* p) {
  return _mm_loadu_ps(static_cast<const float*>(p));
}
LS_SIMD void store(void* p, Vec v) {
  _mm_storeu_ps(static_cast<float*>(p), v);
}
LS_SIMD Vec add(Vec a, Vec b) {
  return _mm_add_ps(a, b);
}
LS_SIMD Vec sub(Vec a, Vec b) {
  return _mm_sub_ps(a, b);
}
LS_SIMD Vec mul(Vec a, Vec b) {
  return _mm_mul_ps(a, b);
}
LS_SIMD Vec div(Vec a, Vec b) {
  return _mm_div_ps(a, b);
}
LS_SIMD Vec max(Vec a, Vec b) {
  return _mm_max_ps(a, b);
}  // b where one is NaN
LS_SIMD Vec min(Vec a, Vec b) {
  return _mm_min_ps(a, b);
}
LS_SIMD Vec fma(Vec a, Vec b, Vec c) {
  return _mm_add_ps(_mm_mul_ps(a, b), c);
}
LS_SIMD float sum(Vec v) {
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps(v, v, 1)));
}
LS_SIMD Vec load_bf16(const void* p) {
  const __m128i codes = _mm_loadl_epi64(static_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), codes));
}
LS_SIMD Vec load_fp16(const void* p) {
  uint16_t c[4];
  std::memcpy(c, p, sizeof(c));
  return _mm_setr_ps(fp16_to_float(c[0]), fp16_to_float(c[1]), fp16_to_float(c[2]),
                     fp16_to_float(c[3]));
}
LS_SIMD Vec load_fp8(const void* p) {
  const auto* c = static_cast<const uint8_t*>(p);
  return _mm_setr_ps(e4m3_to_float(c[0]), e4m3_to_float(c[1]), e4m3_to_float(c[2]),
                     e4m3_to_float(c[3]));
}
LS_SIMD Vec round_pow2(Vec x, Vec* power) {
  const __m128i n = _mm_cvtps_epi32(x);
  *power = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23));
  return _mm_cvtepi32_ps(n);
}
LS_SIMD void transpose(Vec* v) {
  _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
}

#endif

// e^x to about 2 units in the last place within [-87, 88], constant beyond; NaN stays NaN.
LS_SIMD Vec exp(Vec x) {
  x = max(broadcast(-87.0f), min(broadcast(88.0f), x));
  Vec power;
  const Vec n = round_pow2(mul(x, broadcast(1.44269504f)), &power);
  // ln 2 in two parts, the first with few enough bits for an exact product.
  Vec r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec poly = broadcast(1.0f / 5040);
  poly = fma(poly, r, broadcast(1.0f / 720));
  poly = fma(poly, r, broadcast(1.0f / 120));
  poly = fma(poly, r, broadcast(1.0f / 24));
  poly = fma(poly, r, broadcast(1.0f / 6));
  poly = fma(poly, r, broadcast(0.5f));
  poly = fma(poly, r, broadcast(1.0f));
  poly = fma(poly, r, broadcast(1.0f));
  return mul(poly, power);
}

// Keeps x in a register where the compiler would load it again for every use.
LS_SIMD void in_register(Vec& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#else
  asm("" : "+x"(x));
#endif
}

// Asks for the cache line at p, into the second-level cache: the first is too small for what is
// asked ahead.
LS_SIMD void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

LS_SIMD Vec silu(Vec x) {
  const Vec one = broadcast(1.0f);
  return div(x, add(one, exp(sub(zero(), x))));
}

}  // namespace
}  // namespace longshore::kernels::cpu::LONGSHORE_ISA
