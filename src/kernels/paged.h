// What a kernel sees of a ragged batch and of the paged caches. The model states the layout, the
// engine allocates and fills these views, kernels only read and write through them
// (docs/decisions/kv-layout.md).
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace longshore::kernels {

// Tokens of one cache page. MLA latents and index keys use the same pages: page p of a sequence is
// page p in both.
constexpr int kPageTokens = 64;

// The tokens of one step: several sequences' new tokens, one after the other. Every count is a
// run-time value.
struct BatchView {
  int64_t tokens = 0;                    // T
  int64_t sequences = 0;                 // B
  const int32_t* positions = nullptr;    // [T] position of each token in its sequence
  const int32_t* sequence_of = nullptr;  // [T] in [0, B)
  const int32_t* page_table =
      nullptr;  // [B, page_table_width]; page of positions [64 p, 64 p + 64) of sequence b
  int64_t page_table_width = 0;

  // Page and slot of a sequence's position. The pages of positions 0..positions[t] are present for
  // every token t.
  [[nodiscard]] int32_t page(int64_t sequence, int64_t position) const {
    return page_table[sequence * page_table_width + position / kPageTokens];
  }
};

// One layer's latent cache: [pages, 64, width] of dtype, width = kv_lora_rank + qk_rope_head_dim (c
// | k_rope).
struct LatentCacheView {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;  // kF32 (reference) or kBF16
  int64_t width = 0;

  [[nodiscard]] std::byte* token(int32_t page, int64_t position) const {
    return data + (static_cast<int64_t>(page) * kPageTokens + position % kPageTokens) * width *
                      dtype_size(dtype);
  }
};

// One full layer's index keys.
//   kF8E4M3: page = 64 x head_dim FP8 bytes, then 64 fp32 scales (8448 bytes at head_dim 128); keys
//   are Hadamard-rotated
//            and value = fp8 * scale with scale = amax / 448.
//   kF32:    page = 64 x head_dim fp32, not rotated (reference).
struct IndexKeyCacheView {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t head_dim = 0;

  [[nodiscard]] static int64_t page_bytes(DType dtype, int64_t head_dim) {
    return dtype == DType::kF8E4M3 ? kPageTokens * (head_dim + 4) : kPageTokens * head_dim * 4;
  }
  [[nodiscard]] std::byte* key(int32_t page, int64_t position) const {
    return data + page * page_bytes(dtype, head_dim) +
           (position % kPageTokens) * head_dim * dtype_size(dtype);
  }
  // kF8E4M3 only. 4-byte aligned as data is: a page's size is a multiple of 64 bytes.
  [[nodiscard]] float* scale(int32_t page, int64_t position) const {
    return reinterpret_cast<float*>(data + page * page_bytes(dtype, head_dim) +
                                    kPageTokens * head_dim) +
           position % kPageTokens;
  }
};

}  // namespace longshore::kernels
