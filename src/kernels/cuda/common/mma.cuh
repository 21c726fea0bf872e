// Tensor cores through mma.sync (sm_80 and later), and the decoding of weights for them.
//
// The products here put 16 rows of a weight on the matrix's side m and 8 tokens on n. Which 16
// columns one instruction sums over is free as long as weight and tokens agree; so a lane takes
// consecutive bytes of a row, which load 16 at a time, and consecutive columns of a token.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/common/elements.cuh"

namespace longshore::kernels::cuda {

constexpr int kMmaRows = 16;
constexpr int kMmaTokens = 8;

// d [16 rows, 8 tokens] += a [16, 16] b [16, 8]: PTX ISA, mma.m16n8k16. Lane 4g + i holds of d rows
// g and g + 8, tokens 2i and 2i + 1.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two codes e4m3 as two fp16, exactly; a NaN stays one.
__device__ __forceinline__ uint32_t decode_e4m3x2_f16(uint32_t codes) {
  const __half2_raw pair =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes & 0xffffu), __NV_E4M3);
  return pair.x | static_cast<uint32_t>(pair.y) << 16;
}

// The same as two bf16.
__device__ __forceinline__ uint32_t decode_e4m3x2(uint32_t codes) {
  const __half2 half = __half2(
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes & 0xffffu), __NV_E4M3));
  const float2 wide = __half22float2(half);
  const __nv_bfloat162 pair = __floats2bfloat162_rn(wide.x, wide.y);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Weights are read once: they do not push the tokens out of the first cache.
__device__ __forceinline__ uint4 load_streamed(const std::byte* data) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(data));
  return value;
}

__device__ __forceinline__ uint32_t word(const uint4& value, int i) {
  return i == 0 ? value.x : i == 1 ? value.y : i == 2 ? value.z : value.w;
}

// How 16 bytes of a weight's row become operands.
struct Fp8Weight {
  static constexpr int kColumns = 16;  // in 16 bytes
  static constexpr int kSteps = 4;     // products from 16 bytes of a lane
  __device__ static void operand(const uint4& low, const uint4& high, int step, uint32_t (&a)[4]) {
    const uint32_t row_g = word(low, step);
    const uint32_t row_g8 = word(high, step);
    a[0] = decode_e4m3x2(row_g);
    a[1] = decode_e4m3x2(row_g8);
    a[2] = decode_e4m3x2(row_g >> 16);
    a[3] = decode_e4m3x2(row_g8 >> 16);
  }
};
struct Bf16Weight {
  static constexpr int kColumns = 8;
  static constexpr int kSteps = 2;
  __device__ static void operand(const uint4& low, const uint4& high, int step, uint32_t (&a)[4]) {
    a[0] = word(low, 2 * step);
    a[1] = word(high, 2 * step);
    a[2] = word(low, 2 * step + 1);
    a[3] = word(high, 2 * step + 1);
  }
};

}  // namespace longshore::kernels::cuda
