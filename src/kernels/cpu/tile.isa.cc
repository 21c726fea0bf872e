// Tile products. Few inputs: each weight row is decoded in registers and multiplied at once (bound
// by memory). Many inputs: a chunk of the tile is decoded and transposed into a small buffer, then
// reused by all inputs (bound by arithmetic).
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace longshore::kernels::cpu::LONGSHORE_ISA {
namespace {

constexpr int64_t kMatvecInputs = kLanes == 16 ? 6 : 4;  // up to here rows are decoded in registers
constexpr int kPanelVecs = kLanes == 16 ? 4 : 2;
constexpr int kPanelRows = kPanelVecs * kLanes;
constexpr int kInputGroup = 6;       // kInputGroup * kPanelVecs sums fill the registers
constexpr int64_t kPackChunk = 128;  // elements of a row that are packed at a time

LS_SIMD int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

LS_SIMD int64_t element_size(RowType type) {
  return type == RowType::kF32 ? 4 : type == RowType::kFp8 ? 1 : 2;
}

// A 32-bit word of inputs is one fp32 element or a pair of bf16.
template <RowType kType>
struct Words {
  static constexpr InputKind kKind =
      kType == RowType::kBF16 || kType == RowType::kFp8 ? kNarrow : InputKind::kF32;
  static constexpr bool kPairs = kKind == InputKind::kPairs;
  static constexpr int64_t kPerWord = kPairs ? 2 : 1;
  static constexpr int kVecs = static_cast<int>(kChunk / (kPerWord * kLanes));  // of one chunk

  [[gnu::always_inline]] static Vec multiply_add(Vec acc, Vec a, Vec b) {
    if constexpr (kPairs) {
#if defined(__AVX512BF16__)
      return dot_pairs(acc, a, b);
#endif
    } else {
      return fma(a, b, acc);
    }
  }

  // 64 elements at p, in the order of the inputs.
  [[gnu::always_inline]] static void decode(const uint8_t* p, Vec* out) {
    if constexpr (kKind == InputKind::kF32) {
      for (int v = 0; v < kVecs; ++v) out[v] = decode_lanes(p + v * kLanes * element_size(kType));
    } else {
#if defined(__AVX512VBMI__)
      Vec pairs[2];
      if constexpr (kType == RowType::kFp8) {
        load_fp8_pairs(p, pairs);
      } else {
        pairs[0] = load(p);
        pairs[1] = load(p + 64);
      }
      for (int i = 0; i < 2; ++i) {
        if constexpr (kPairs) {
          out[i] = pairs[i];
        } else {
          out[2 * i] = even_of_pairs(pairs[i]);
          out[2 * i + 1] = odd_of_pairs(pairs[i]);
        }
      }
#endif
    }
  }

 private:
  [[gnu::always_inline]] static Vec decode_lanes(const uint8_t* p) {
    if constexpr (kType == RowType::kF32) {
      return load(p);
    } else if constexpr (kType == RowType::kBF16) {
      return load_bf16(p);
    } else if constexpr (kType == RowType::kF16) {
      return load_fp16(p);
    } else {
#if !defined(__AVX512VBMI__)
      return load_fp8(p);
#endif
    }
  }
};

// A chunk of fewer than 64 elements is completed with zeros in `buffer` (256 bytes).
template <RowType kType>
LS_SIMD const uint8_t* whole_chunk(const uint8_t* p, int64_t elements, uint8_t* buffer) {
  if (elements >= kChunk) return p;
  std::memset(buffer, 0, kChunk * element_size(kType));
  std::memcpy(buffer, p, static_cast<size_t>(elements * element_size(kType)));
  return buffer;
}

LS_SIMD float scale_of(const Tile& tile, int64_t row, int64_t segment) {
  return tile.scales[row] != nullptr ? tile.scales[row][segment] : 1.0f;
}

// Asks for byte `offset` of row r; past the row's end, for what comes after the tile.
template <RowType kType>
LS_SIMD void prefetch_row(const Tile& tile, int64_t r, int64_t offset) {
  const int64_t bytes = tile.in * element_size(kType);
  if (offset < bytes) {
    prefetch(static_cast<const uint8_t*>(tile.rows[r]) + offset);
  } else if (tile.next != nullptr) {
    prefetch(static_cast<const uint8_t*>(tile.next) + r * tile.next_stride + offset - bytes);
  }
}

// Rows that share a loaded input, and sums of each product: enough of them to hide the latency of a
// multiply-add, and no more than there are registers. Measured on Zen 4 and, with AMX, on an Intel
// Xeon.
#if defined(__AMX_BF16__)
constexpr int kOneInputRows = 4;
#else
constexpr int kOneInputRows = kLanes == 16 ? 2 : 4;
#endif
template <int kInputs>
constexpr int kMatvecRows = kInputs == 1                                     ? kOneInputRows
                            : kInputs == 2 || (kInputs == 3 && kLanes == 16) ? 4
                                                                             : 2;
template <int kRows, int kInputs>
constexpr int kMatvecSums = kRows* kInputs <= 2 && kLanes == 16 ? 2 : 1;

template <int kRows, int kInputs>
using MatvecSums = Vec[kRows][kInputs][kMatvecSums<kRows, kInputs>];

// sums += 64 elements, or at the end of a segment fewer, of kRows rows times those of kInputs
// inputs.
template <RowType kType, int kRows, int kInputs, bool kWhole>
LS_SIMD void matvec_chunk(const uint8_t* const* rows, const uint8_t* const* ahead, int64_t offset,
                          int64_t elements, const uint8_t* const* x, int64_t x_offset,
                          MatvecSums<kRows, kInputs>& sums) {
  using W = Words<kType>;
  constexpr int kSums = kMatvecSums<kRows, kInputs>;
  Vec w[kRows][W::kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const uint8_t* row = rows[r] + offset * element_size(kType);
    if constexpr (kWhole) {
      for (int64_t line = 0; line < element_size(kType); ++line) {
        prefetch(ahead[r] + offset * element_size(kType) + line * kChunk);
      }
      W::decode(row, w[r]);
    } else {
      alignas(64) uint8_t buffer[256];
      W::decode(whole_chunk<kType>(row, elements, buffer), w[r]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kInputs; ++t) {
#pragma GCC unroll 16
    for (int v = 0; v < W::kVecs; ++v) {
      Vec input = load(x[t] + x_offset + v * kLanes * 4);
      if (kRows > 1) in_register(input);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        sums[r][t][v % kSums] = W::multiply_add(sums[r][t][v % kSums], w[r][v], input);
      }
    }
  }
}

// kRows rows from `first` times kInputs inputs from `inputs`.
template <RowType kType, int kRows, int kInputs>
void matvec_rows(const Tile& tile, int64_t first, const void* const* inputs, float* out) {
  using W = Words<kType>;
  const uint8_t* rows[kRows];
  const uint8_t* ahead[kRows];
  const uint8_t* x[kInputs];
  for (int r = 0; r < kRows; ++r) {
    const int64_t later = first + kRows + r;
    rows[r] = static_cast<const uint8_t*>(tile.rows[first + r]);
    ahead[r] = later < tile.count     ? static_cast<const uint8_t*>(tile.rows[later])
               : tile.next != nullptr ? static_cast<const uint8_t*>(tile.next) +
                                            (later - tile.count) * tile.next_stride
                                      : rows[r];
  }
  for (int t = 0; t < kInputs; ++t) x[t] = static_cast<const uint8_t*>(inputs[t]);
  // In memory, since most registers belong to a segment's sums.
  alignas(64) float totals[kRows][kInputs][kLanes] = {};
  const int64_t padded = padded_segment(tile.segment);
  int64_t segment = 0;
  for (int64_t start = 0; start < tile.in; start += tile.segment, ++segment) {
    const int64_t length = least(tile.segment, tile.in - start);
    const int64_t x_start = segment * padded;
    MatvecSums<kRows, kInputs> sums;
    for (auto& row : sums) {
      for (auto& input : row) {
        for (Vec& s : input) s = zero();
      }
    }
    int64_t i = 0;
    for (; i + kChunk <= length; i += kChunk) {
      matvec_chunk<kType, kRows, kInputs, true>(rows, ahead, start + i, kChunk, x,
                                                (x_start + i) * 4 / W::kPerWord, sums);
    }
    if (i < length) {
      matvec_chunk<kType, kRows, kInputs, false>(rows, ahead, start + i, length - i, x,
                                                 (x_start + i) * 4 / W::kPerWord, sums);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = broadcast(scale_of(tile, first + r, segment));
#pragma GCC unroll 8
      for (int t = 0; t < kInputs; ++t) {
        Vec s = sums[r][t][0];
        if constexpr (kMatvecSums<kRows, kInputs> == 2) s = add(s, sums[r][t][1]);
        store(totals[r][t], fma(s, scale, load(totals[r][t])));
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kInputs; ++t) out[t * kTileRows + first + r] = sum(load(totals[r][t]));
  }
}

template <RowType kType, int kInputs>
void matvec(const Tile& tile, const void* const* x, float* out) {
  constexpr int kRows = kMatvecRows<kInputs>;
  int64_t r = 0;
  for (; r + kRows <= tile.count; r += kRows) matvec_rows<kType, kRows, kInputs>(tile, r, x, out);
  for (; r < tile.count; ++r) matvec_rows<kType, 1, kInputs>(tile, r, x, out);
}

// packed[panel][word][row of the panel] = elements [start, start + length) of the tile's rows,
// zeros around them.
template <RowType kType>
void pack(const Tile& tile, int64_t start, int64_t length, uint32_t* packed, int64_t words) {
  using W = Words<kType>;
  for (int64_t group = 0; group < kTileRows; group += kLanes) {
    if (group >= tile.count && group % kPanelRows == 0) return;  // no panel beyond is used
    uint32_t* panel = packed + group / kPanelRows * words * kPanelRows + group % kPanelRows;
    for (int64_t i = 0; i < length; i += kChunk) {
      alignas(64) uint32_t rows[kLanes][kChunk];
      for (int64_t r = 0; r < kLanes; ++r) {
        if (group + r >= tile.count) {
          std::memset(rows[r], 0, sizeof(rows[r]));
          continue;
        }
        alignas(64) uint8_t buffer[256];
        const auto* row = static_cast<const uint8_t*>(tile.rows[group + r]);
        for (int64_t line = 0; line < element_size(kType); ++line) {
          // The columns that are packed next.
          prefetch_row<kType>(tile, group + r,
                              (start + i + kPackChunk) * element_size(kType) + line * kChunk);
        }
        Vec w[W::kVecs];
        W::decode(whole_chunk<kType>(row + (start + i) * element_size(kType), length - i, buffer),
                  w);
        for (int v = 0; v < W::kVecs; ++v) store(rows[r] + v * kLanes, w[v]);
      }
      for (int v = 0; v < W::kVecs; ++v) {
        Vec square[kLanes];
        for (int r = 0; r < kLanes; ++r) square[r] = load(rows[r] + v * kLanes);
        transpose(square);
        uint32_t* target = panel + (i / W::kPerWord + v * kLanes) * kPanelRows;
        for (int k = 0; k < kLanes; ++k) store(target + k * kPanelRows, square[k]);
      }
    }
  }
}

LS_SIMD Vec broadcast_word(const void* p) {
  float word;
  std::memcpy(&word, p, sizeof(word));
  return broadcast(word);
}

// out[t][0, kPanelRows) += scales * (panel . x[t]) over `words` words.
template <RowType kType, int kInputs>
void panel_product(const uint32_t* panel, int64_t words, const void* const* x, int64_t x_offset,
                   const float* scales, float* out) {
  using W = Words<kType>;
  const uint8_t* inputs[kInputs];
  for (int t = 0; t < kInputs; ++t) inputs[t] = static_cast<const uint8_t*>(x[t]) + x_offset;
  Vec sums[kInputs][kPanelVecs];
  for (auto& row : sums) {
    for (Vec& s : row) s = zero();
  }
  for (int64_t k = 0; k < words; ++k) {
    Vec w[kPanelVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVecs; ++v) w[v] = load(panel + k * kPanelRows + v * kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < kInputs; ++t) {
      const Vec word = broadcast_word(inputs[t] + k * 4);
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVecs; ++v) {
        sums[t][v] = W::multiply_add(sums[t][v], w[v], word);
      }
    }
  }
  for (int t = 0; t < kInputs; ++t) {
    for (int v = 0; v < kPanelVecs; ++v) {
      float* target = out + t * kTileRows + v * kLanes;
      store(target, fma(sums[t][v], load(scales + v * kLanes), load(target)));
    }
  }
}

template <RowType kType>
void panel_products(const uint32_t* panel, int64_t words, const Inputs& x, int64_t x_offset,
                    const float* scales, float* out) {
  for (int64_t t = 0; t < x.count; t += kInputGroup) {
    const void* const* rows = x.rows + t;
    float* target = out + t * kTileRows;
    switch (least(kInputGroup, x.count - t)) {
      case 1:
        panel_product<kType, 1>(panel, words, rows, x_offset, scales, target);
        break;
      case 2:
        panel_product<kType, 2>(panel, words, rows, x_offset, scales, target);
        break;
      case 3:
        panel_product<kType, 3>(panel, words, rows, x_offset, scales, target);
        break;
      case 4:
        panel_product<kType, 4>(panel, words, rows, x_offset, scales, target);
        break;
      case 5:
        panel_product<kType, 5>(panel, words, rows, x_offset, scales, target);
        break;
      default:
        panel_product<kType, kInputGroup>(panel, words, rows, x_offset, scales, target);
    }
  }
}

template <RowType kType>
void matmul(const Tile& tile, const Inputs& x, float* out) {
  using W = Words<kType>;
  alignas(64) uint32_t packed[kTileRows * kPackChunk];
  alignas(64) float scales[kTileRows];
  std::memset(out, 0, static_cast<size_t>(x.count) * kTileRows * sizeof(float));
  const int64_t padded = padded_segment(tile.segment);
  const int panels = (tile.count + kPanelRows - 1) / kPanelRows;
  int64_t segment = 0;
  for (int64_t start = 0; start < tile.in; start += tile.segment, ++segment) {
    const int64_t length = least(tile.segment, tile.in - start);
    for (int r = 0; r < kTileRows; ++r) {
      scales[r] = r < tile.count ? scale_of(tile, r, segment) : 0.0f;
    }
    for (int64_t i = 0; i < length; i += kPackChunk) {
      const int64_t part = least(kPackChunk, length - i);
      const int64_t words = (part + kChunk - 1) / kChunk * kChunk / W::kPerWord;
      const int64_t x_offset = (segment * padded + i) * 4 / W::kPerWord;
      pack<kType>(tile, start + i, part, packed, words);
      for (int p = 0; p < panels; ++p) {
        panel_products<kType>(packed + p * words * kPanelRows, words, x, x_offset,
                              scales + p * kPanelRows, out + p * kPanelRows);
      }
    }
  }
}

template <RowType kType>
void product(const Tile& tile, const Inputs& x, float* out) {
  switch (x.count) {
    case 0:
      return;
    case 1:
      return matvec<kType, 1>(tile, x.rows, out);
    case 2:
      return matvec<kType, 2>(tile, x.rows, out);
    case 3:
      return matvec<kType, 3>(tile, x.rows, out);
    case 4:
      return matvec<kType, 4>(tile, x.rows, out);
    default:
      break;
  }
  if constexpr (kMatvecInputs == 6) {
    if (x.count == 5) return matvec<kType, 5>(tile, x.rows, out);
    if (x.count == 6) return matvec<kType, 6>(tile, x.rows, out);
  }
  matmul<kType>(tile, x, out);
}

LS_SIMD uint16_t bf16_at(const uint8_t* x, bool x_is_bf16, int64_t i) {
  if (x_is_bf16) {
    uint16_t code;
    std::memcpy(&code, x + 2 * i, 2);
    return code;
  }
  float value;
  std::memcpy(&value, x + 4 * i, 4);
  return bf16_from_float(value);
}

// The place of element i in inputs of a kind.
template <InputKind kKind>
LS_SIMD int64_t place_of(int64_t i) {
  return kKind == InputKind::kSplit ? i / 32 * 32 + i % 2 * 16 + i % 32 / 2 : i;
}

// n elements of x rounded to bf16, with zeros up to `padded`.
template <InputKind kKind, bool kIsBf16>
void prepare_segment(const uint8_t* x, int64_t n, int64_t padded, uint8_t* out) {
  if constexpr (kKind == InputKind::kPairs) {
    if constexpr (kIsBf16) {
      std::memcpy(out, x, static_cast<size_t>(n) * 2);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t code = bf16_at(x, false, i);
        std::memcpy(out + 2 * i, &code, 2);
      }
    }
    std::memset(out + 2 * n, 0, static_cast<size_t>(padded - n) * 2);
  } else {
    if (n < padded) std::memset(out, 0, static_cast<size_t>(padded) * 4);
    const int64_t whole = n / 32 * 32;
    for (int64_t first = 0; first < whole; first += 32) {
      float values[32];
      for (int64_t i = 0; i < 32; ++i) values[i] = bf16_to_float(bf16_at(x, kIsBf16, first + i));
      float ordered[32];
      for (int64_t i = 0; i < 32; ++i) ordered[place_of<kKind>(i)] = values[i];
      std::memcpy(out + 4 * first, ordered, sizeof(ordered));
    }
    for (int64_t i = whole; i < n; ++i) {
      const float value = bf16_to_float(bf16_at(x, kIsBf16, i));
      std::memcpy(out + 4 * place_of<kKind>(i), &value, 4);
    }
  }
}

template <InputKind kKind>
void prepare_row(const uint8_t* x, bool x_is_bf16, int64_t in, int64_t segment, uint8_t* out) {
  const int64_t padded = padded_segment(segment);
  for (int64_t start = 0; start < in; start += segment) {
    const int64_t n = least(segment, in - start);
    // The last segment is padded to whole chunks only.
    const int64_t room = start + segment < in ? padded : padded_segment(n);
    if (x_is_bf16) {
      prepare_segment<kKind, true>(x, n, room, out);
    } else {
      prepare_segment<kKind, false>(x, n, room, out);
    }
    x += n * (x_is_bf16 ? 2 : 4);
    out += room * input_size(kKind);
  }
}

}  // namespace

void prepare(const void* x, bool x_is_bf16, int64_t in, int64_t segment, InputKind kind,
             void* out) {
  const auto* source = static_cast<const uint8_t*>(x);
  auto* target = static_cast<uint8_t*>(out);
  switch (kind) {
    case InputKind::kF32:
      return prepare_row<InputKind::kF32>(source, x_is_bf16, in, segment, target);
    case InputKind::kPairs:
      return prepare_row<InputKind::kPairs>(source, x_is_bf16, in, segment, target);
    case InputKind::kSplit:
      return prepare_row<InputKind::kSplit>(source, x_is_bf16, in, segment, target);
  }
}

void tile_product(const Tile& tile, const Inputs& x, float* out) {
  switch (tile.type) {
    case RowType::kF32:
      return product<RowType::kF32>(tile, x, out);
    case RowType::kBF16:
      return product<RowType::kBF16>(tile, x, out);
    case RowType::kF16:
      return product<RowType::kF16>(tile, x, out);
    case RowType::kFp8:
      return product<RowType::kFp8>(tile, x, out);
  }
}

}  // namespace longshore::kernels::cpu::LONGSHORE_ISA
