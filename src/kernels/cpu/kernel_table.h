// The inner loops of the cpu backend, one table per instruction set. Each works on one piece of an
// operation on the calling thread; backend.cc cuts the pieces and owns all memory.
//
// Plain data and function pointers only: this header is included by files compiled for different
// instruction sets.
#pragma once

#include <cstdint>

namespace longshore::kernels::cpu {

constexpr int kTileRows = 64;         // most weight rows of one tile product
constexpr int64_t kPanelInputs = 16;  // inputs of a panel
constexpr int64_t kMostTiles = 4;     // of one panel product
constexpr int64_t kInputPad =
    64;  // segments of prepared inputs are padded to a multiple of this many elements

enum class RowType : uint8_t { kF32, kBF16, kF16, kFp8 };

// How activations, rounded to bf16, lie in memory for a tile product.
enum class InputKind : uint8_t {
  kF32,    // fp32, in order
  kPairs,  // bf16, in order: two to a 32-bit word
  kSplit,  // fp32; of every 32 elements first those of even index, then the others: the order in
           // which words of two bf16 are widened
};

// Up to 64 rows of a matrix that is multiplied with activations: weights, index keys, latents.
struct Tile {
  const void* rows[kTileRows];     // no alignment
  const float* scales[kTileRows];  // kFp8: the row's scales, one per segment; null for 1
  int count;
  RowType type;
  int64_t in;       // elements of a row
  int64_t segment;  // kFp8: columns that share a scale; otherwise in
  // What will probably be read after this tile: rows of the same length, so many bytes from one to
  // the next. May be null.
  const void* next;
  int64_t next_stride = 0;
};

// Activations made ready for tiles (prepare): every segment starts at a multiple of its padded
// length, zeros behind it.
struct Inputs {
  const void* const* rows;  // [count]
  int64_t count;
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
  InputKind narrow;  // what tiles of bf16 and FP8 take; all others take kF32

  // out [padded] = x [in] rounded to bf16, of the given kind, segment by segment, zeros between.
  void (*prepare)(const void* x, bool x_is_bf16, int64_t in, int64_t segment, InputKind kind,
                  void* out);
  // out[i * 64 + r] = tile row r . input i for every r < 64; rows past the tile's count give
  // unspecified values.
  void (*tile_product)(const Tile& tile, const Inputs& x, float* out);
  // For bf16 and FP8 tiles of many inputs; null where the instruction set has nothing better than
  // tile_product. panel [padded * 32 bytes] = up to 16 inputs of kind kPairs and `padded` elements,
  // for panel_product.
  void (*pack_panel)(const void* const* inputs, int64_t count, int64_t padded, void* panel);
  // out[tile] as of tile_product, for all 16 inputs of each of `count` panels; out [tile_count,
  // count * 16, 64]. At most kMostTiles tiles, of the same type, width and segment.
  void (*panel_product)(const Tile* tiles, int64_t tile_count, const void* panels,
                        int64_t panel_bytes, int64_t count, float* out);
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
  // out [n] bf16 = FP8 codes [n] * scales[i / segment]; segment is a multiple of 64.
  void (*widen_fp8)(const void* codes, const float* scales, int64_t segment, int64_t n, void* out);
  // y [n] = x [n] / total.
  void (*divide)(const float* x, float total, int64_t n, StoreMode mode, void* y);
};

// Forced inline as in format/codec.h.
[[nodiscard, gnu::always_inline]] inline constexpr int64_t input_size(InputKind kind) {
  return kind == InputKind::kPairs ? 2 : 4;
}
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
namespace avx512bf16 {
extern const KernelTable kTable;
}
namespace amx {
extern const KernelTable kTable;
}

}  // namespace longshore::kernels::cpu
