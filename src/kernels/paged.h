// What a kernel sees of a ragged batch and of the paged caches. The model states the layout, the
// engine allocates and fills these views, kernels only read and write through them
// (docs/decisions/kv-layout.md).
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/format/latent_fp8.h"

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

// One layer's latent cache: [pages, 64] tokens of token_bytes(), each c [kv_lora] | k_rope
// [rope_dim].
//   kF32 (reference), kBF16: numbers of that type.
//   kF8E4M3: kv_lora FP8 codes, filled up to a multiple of 4 bytes; fp32 scales, one for every
//            kLatentGroup = 128 columns of c (format/latent_fp8.h), c = fp8 * scale; k_rope as
//            bf16. 656 bytes at 512 + 64. Source of the format: DeepSeek's FlashMLA ("FP8 with
//            scale"), vLLM's fp8_ds_mla.
struct LatentCacheView {
  std::byte* data = nullptr;  // aligned to 4 bytes
  DType dtype = DType::kF32;
  int64_t kv_lora = 0;
  int64_t rope_dim = 0;  // even

  // kF8E4M3 only: bytes from a token's start.
  [[nodiscard]] static constexpr int64_t scales_at(int64_t kv_lora) {
    return (kv_lora + 3) / 4 * 4;
  }
  [[nodiscard]] static constexpr int64_t rope_at(int64_t kv_lora) {
    return scales_at(kv_lora) + (kv_lora + kLatentGroup - 1) / kLatentGroup * 4;
  }
  [[nodiscard]] static constexpr int64_t token_bytes(DType dtype, int64_t kv_lora,
                                                     int64_t rope_dim) {
    if (dtype == DType::kF8E4M3) return rope_at(kv_lora) + rope_dim * 2;
    return (kv_lora + rope_dim) * dtype_size(dtype);
  }

  [[nodiscard]] int64_t width() const { return kv_lora + rope_dim; }
  [[nodiscard]] int64_t token_bytes() const { return token_bytes(dtype, kv_lora, rope_dim); }
  [[nodiscard]] std::byte* token(int32_t page, int64_t position) const {
    return data +
           (static_cast<int64_t>(page) * kPageTokens + position % kPageTokens) * token_bytes();
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
