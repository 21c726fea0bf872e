// The inner loops of the cpu backend, one table per instruction set. Each works on one piece of an
// operation on the calling thread; backend.cc cuts the pieces and owns all memory.
//
// Plain data and function pointers only: this header is included by files compiled for different
// instruction sets.
#pragma once

#include <cstdint>

namespace longshore::kernels::cpu {

constexpr int kTileRows = 64;  // most weight rows of one tile product
constexpr int64_t kInputPad =
    64;  // segments of prepared inputs are padded to a multiple of this many elements

enum class RowType : uint8_t { kF32, kBF16, kF16, kFp8 };

// Up to 64 rows of a matrix that is multiplied with activations: weights, index keys, latents.
struct Tile {
  const void* rows[kTileRows];     // no alignment
  const float* scales[kTileRows];  // kFp8: the row's scales, one per segment; null for 1
  int count;
  RowType type;
  int64_t in;       // elements of a row
  int64_t segment;  // kFp8: columns that share a scale; otherwise in
};

// Activations made ready for tiles (prepare): every segment starts at a multiple of its padded
// length, zeros behind it.
struct Inputs {
  const void* const* rows;  // [count]
  int64_t count;
  bool pairs;  // elements are bf16; otherwise fp32 (holding bf16 values)
};

enum class StoreMode : uint8_t { kF32, kAddF32, kBF16 };

// One block of up to 64 chosen positions for several heads of one token: flash-style running
// softmax.
struct AttendBlock {
  float* logits;                   // [heads, 64]: raw products in, probabilities out
  const void* latents[kTileRows];  // bf16 rows
  int count;
  int64_t heads;
  int64_t kv_lora;
  float scale;
  float* highest;  // [heads] running maximum, -inf at first
  float* total;    // [heads] running sum of exponentials, 0 at first
  float* o;        // [heads, kv_lora] running weighted sum, 0 at first
};

struct KernelTable {
  const char* name;
  bool pairs;  // tiles of bf16 and FP8 take inputs with pairs; all others take fp32

  // out [padded] = x [in] rounded to bf16, as bf16 (pairs) or fp32, segment by segment, zeros
  // between.
  void (*prepare)(const void* x, bool x_is_bf16, int64_t in, int64_t segment, bool pairs,
                  void* out);
  // out[i * 64 + r] = tile row r . input i for every r < 64; rows past the tile's count give
  // unspecified values.
  void (*tile_product)(const Tile& tile, const Inputs& x, float* out);
  // y[i][0, rows) from tile [count, 64].
  void (*store_tile)(const float* tile, int64_t count, int rows, StoreMode mode, void* const* y);
  // y[i][0, rows) bf16 = silu(gate) * up from two tiles [count, 64].
  void (*silu_mul_tile)(const float* gate, const float* up, int64_t count, int rows,
                        void* const* y);

  // y [n], mode kF32 or kBF16.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, StoreMode mode, void* y);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, StoreMode mode,
                   void* y);
  // y [n] += weight * x [n].
  void (*add_scaled)(const float* x, float weight, int64_t n, float* y);

  // scores[s] = key_scales[s] * sum_h head_weights[h] * relu(products[h * 64 + s]) for s < count.
  void (*index_scores)(const float* products, int64_t heads, const float* head_weights,
                       const float* key_scales, int count, float* scores);
  void (*attend)(const AttendBlock& block);
  // y [n] = x [n] / total.
  void (*divide)(const float* x, float total, int64_t n, StoreMode mode, void* y);
};

// Forced inline as in format/codec.h.
[[nodiscard, gnu::always_inline]] inline constexpr int64_t padded_segment(int64_t segment) {
  return (segment + kInputPad - 1) / kInputPad * kInputPad;
}

namespace generic {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}

}  // namespace longshore::kernels::cpu
