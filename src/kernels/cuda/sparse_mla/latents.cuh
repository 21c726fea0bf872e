// How a block's latents come into shared memory as bf16 tiles of 64 positions, in two stages that
// take turns: bf16 ones by asynchronous copies, FP8 ones through registers, widened while the
// tensor cores multiply the tile before. The kernel in hopper.cu calls the same functions of both
// in the same places.
#pragma once

#include "kernels/cuda/common/mma.cuh"
#include "kernels/cuda/sparse_mla/hopper_block.cuh"

namespace longshore::kernels::cuda {
namespace {

#ifdef LS_HAS_WGMMA

// Where this thread's rows of the next tile lie. Positions and pages are looked up a tile ahead of
// the latents, so that no thread waits for either.
class Chosen {
 public:
  __device__ Chosen(const SparseMlaParams& p, int64_t t, int count, int tile)
      : table_(p.batch.page_table + p.batch.sequence_of[t] * p.batch.page_table_width),
        selected_(p.selected + t * p.selected_stride),
        last_(count - 1),
        tile_(tile + 1) {
    find_positions(tile);
    find_pages();
    find_positions(tile + 1);
  }

  // Of the next tile's row mover().row + 32 r, counted over all pages; rows past the last position
  // repeat it.
  [[nodiscard]] __device__ int64_t token(int r) const { return token_[r]; }
  __device__ void advance() {
    find_pages();
    find_positions(++tile_);
  }
  [[nodiscard]] __device__ const Mover& mover() const { return mover_; }

 private:
  __device__ void find_positions(int tile) {
    for (int r = 0; r < Mover::kRows; ++r) {
      position_[r] = selected_[min(tile * kTile + mover_.row + 32 * r, last_)];
    }
  }
  __device__ void find_pages() {
    for (int r = 0; r < Mover::kRows; ++r) {
      const int32_t page = table_[position_[r] / kPageTokens];
      token_[r] = int64_t{page} * kPageTokens + position_[r] % kPageTokens;
    }
  }

  Mover mover_;
  const int32_t* table_;
  const int32_t* selected_;
  int last_;
  int tile_;                        // whose positions are known
  int32_t position_[Mover::kRows];  // of that tile
  int64_t token_[Mover::kRows];     // of the one before
};

class Bf16Latents {
 public:
  // The first tile goes to stage 0; shared: address of the stages.
  __device__ Bf16Latents(const SparseMlaParams& p, int64_t t, int count, int first, int end,
                         uint32_t shared)
      : chosen_(p, t, count, first),
        data_(reinterpret_cast<const uint16_t*>(p.cache.data)),
        shared_(shared),
        left_(end - first) {
    for (int s = 0; s < kStages; ++s) start(s);
  }

  // This thread's part of the tile at hand is in shared memory (and the queries, if the block
  // copied those before).
  __device__ void await() {
    cp_async_wait<kStages - 1>();
    fence_for_wgmma();
  }
  __device__ void while_keys_multiply(int) {}
  __device__ void while_values_multiply(int) {}
  __device__ void after_values(int stage) {
    __syncthreads();
    start(stage);
  }

 private:
  __device__ void start(int stage) {
    if (left_-- > 0) {
      const Mover& mover = chosen_.mover();
      const uint32_t to = shared_ + stage * kTileBytes + swizzled(mover.row, mover.piece);
#pragma unroll
      for (int r = 0; r < Mover::kRows; ++r) {
        const uint16_t* from = data_ + chosen_.token(r) * kWidth + mover.piece * 8;
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          cp_async_16(to + r * 32 * 128 + column * kColumnBytes, from + column * 64);
        }
      }
      chosen_.advance();
    }
    cp_async_commit();
  }

  Chosen chosen_;
  const uint16_t* data_;
  uint32_t shared_;
  int left_;  // tiles not started
};

// Four FP8 codes times a power of two as four bf16, exactly. Exponent and mantissa of a code move
// to where bf16 has them, which leaves out a factor of 2^120; the sign moves on by four bits.
__device__ __forceinline__ uint2 widen_codes(uint32_t codes, __nv_bfloat162 scale) {
  const __nv_bfloat162 bias = __floats2bfloat162_rn(0x1p120f, 0x1p120f);
  const auto widen = [&](uint32_t low_bytes) {
    const uint32_t moved = low_bytes * 16;  // products: the units for shifts are busy
    const uint32_t bits = moved + (moved & 0x08000800u) * 15;
    const __nv_bfloat162 pair =
        __hmul2(__hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits), bias), scale);
    return *reinterpret_cast<const uint32_t*>(&pair);
  };
  return {widen(__byte_perm(codes, 0, 0x4140)), widen(__byte_perm(codes, 0, 0x4342))};
}

// A thread's two rows of the next tile wait in registers. The first is widened while the keys are
// multiplied, the second while the values are, and each is followed by reading its successor.
class Fp8Latents {
 public:
  __device__ Fp8Latents(const SparseMlaParams& p, int64_t t, int count, int first, int end,
                        uint32_t shared)
      : chosen_(p, t, count, first), data_(p.cache.data), shared_(shared), left_(end - first) {
    load<0>();
    load<1>();
    store<0>(0);
    store<1>(0);
    load<0>();
    load<1>();
    cp_async_wait<0>();  // the queries
    fence_for_wgmma();
  }

  __device__ void await() {}
  // The other stage's products are done: all have passed a barrier since.
  __device__ void while_keys_multiply(int stage) {
    store<0>((stage + 1) % kStages);
    load<0>();
  }
  __device__ void while_values_multiply(int stage) {
    store<1>((stage + 1) % kStages);
    load<1>();
  }
  __device__ void after_values(int) { fence_for_wgmma(); }

 private:
  static constexpr int kTokenBytes =
      static_cast<int>(LatentCacheView::token_bytes(DType::kF8E4M3, kLora, kRope));
  static constexpr int kScalesAt = static_cast<int>(LatentCacheView::scales_at(kLora));
  static constexpr int kRopeAt = static_cast<int>(LatentCacheView::rope_at(kLora));
  static constexpr int kGroups = kLora / kLatentGroup;
  static_assert(Mover::kRows == 2);
  static_assert(kGroups == 4 && kLatentGroup == 8 * 16);  // 8 threads of a row, 16 codes each

  __device__ static uint4 load_16(const std::byte* from) {
    uint4 value;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
  }
  __device__ static void store_16(uint32_t to, uint2 low, uint2 high) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(low.x), "r"(low.y),
                 "r"(high.x), "r"(high.y)
                 : "memory");
  }

  // Starts reading row kRow of the next tile, if there is one.
  template <int kRow>
  __device__ void load() {
    if (kRow == 0) --left_;
    loaded_[kRow] = left_ >= 0;
    if (!loaded_[kRow]) return;
    const std::byte* token = data_ + chosen_.token(kRow) * kTokenBytes;
    scales_[kRow] = load_16(token + kScalesAt);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      codes_[kRow][group] = load_16(token + group * kLatentGroup + chosen_.mover().piece * 16);
    }
    rope_[kRow] = load_16(token + kRopeAt + chosen_.mover().piece * 16);
    if (kRow == 1) chosen_.advance();
  }

  // Widens what was read. A thread's 16 codes become two neighbouring pieces of 16 bytes; half of
  // the threads write the second first, so that the 8 of a row never meet in a bank.
  template <int kRow>
  __device__ void store(int stage) {
    if (!loaded_[kRow]) return;
    const Mover& mover = chosen_.mover();
    const int swapped = mover.piece / 4;
    const int piece = mover.piece % 4 * 2;
    const uint32_t base = shared_ + stage * kTileBytes + kRow * 32 * 128;
    const uint32_t to = base + swapped * kColumnBytes;
    const uint32_t first = to + swizzled(mover.row, piece + swapped);
    const uint32_t second = to + swizzled(mover.row, piece + 1 - swapped);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const uint4& codes = codes_[kRow][group];
      const float exact = __uint_as_float(word(scales_[kRow], group));
      const __nv_bfloat162 scale = __floats2bfloat162_rn(exact, exact);
      const int at = group * 2 * kColumnBytes;
      const uint2 ahead = swapped != 0 ? uint2{codes.z, codes.w} : uint2{codes.x, codes.y};
      const uint2 behind = swapped != 0 ? uint2{codes.x, codes.y} : uint2{codes.z, codes.w};
      store_16(first + at, widen_codes(ahead.x, scale), widen_codes(ahead.y, scale));
      store_16(second + at, widen_codes(behind.x, scale), widen_codes(behind.y, scale));
    }
    store_16(base + (kColumns - 1) * kColumnBytes + swizzled(mover.row, mover.piece),
             {rope_[kRow].x, rope_[kRow].y}, {rope_[kRow].z, rope_[kRow].w});
  }

  Chosen chosen_;
  const std::byte* data_;
  uint32_t shared_;
  int left_;        // tiles not read
  bool loaded_[2];  // a row of a tile is in the registers
  uint4 codes_[Mover::kRows][kGroups];
  uint4 scales_[Mover::kRows];  // fp32
  uint4 rope_[Mover::kRows];
};

#endif  // LS_HAS_WGMMA

}  // namespace
}  // namespace longshore::kernels::cuda
