// Views of matrices in memory: element type, shape and stride, no ownership.
//
// All matrices are row-major. A view never owns: whoever made the memory keeps it alive and says
// for how long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"

namespace longshore {

enum class DType : uint8_t { kF32, kBF16, kF16, kF8E4M3, kI32, kI64, kU8 };

[[nodiscard]] constexpr int64_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
    case DType::kU8:
      return 1;
    case DType::kI64:
      return 8;
  }
  return 0;
}
// The name in a safetensors header: "F32", "BF16", "F16", "F8_E4M3", "I32", "I64", "U8".
[[nodiscard]] std::string_view dtype_name(DType dtype);

// A matrix of activations [rows, cols]; element (r, c) lies at data + (r * stride + c) *
// dtype_size(dtype). Aligned to its element.
struct MatrixView {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  [[nodiscard]] std::byte* row(int64_t r) const { return data + r * stride * dtype_size(dtype); }
  template <typename T>
  [[nodiscard]] T* row_as(int64_t r) const {
    LS_CHECK(static_cast<int64_t>(sizeof(T)) == dtype_size(dtype));
    return reinterpret_cast<T*>(row(r));
  }
  // Rows [first, first + count).
  [[nodiscard]] MatrixView slice_rows(int64_t first, int64_t count) const {
    LS_CHECK(first >= 0 && count >= 0 && first + count <= rows);
    return {row(first), dtype, count, cols, stride};
  }
  // Columns [first, first + count) of every row.
  [[nodiscard]] MatrixView slice_cols(int64_t first, int64_t count) const {
    LS_CHECK(first >= 0 && count >= 0 && first + count <= cols);
    return {data + first * dtype_size(dtype), dtype, rows, count, stride};
  }
};

// The same, read only.
struct ConstMatrixView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  ConstMatrixView() = default;
  ConstMatrixView(const std::byte* d, DType t, int64_t r, int64_t c, int64_t s)
      : data(d), dtype(t), rows(r), cols(c), stride(s) {}
  ConstMatrixView(const MatrixView& m)  // NOLINT(google-explicit-constructor): a read-only view of
                                        // the same memory
      : data(m.data), dtype(m.dtype), rows(m.rows), cols(m.cols), stride(m.stride) {}

  [[nodiscard]] const std::byte* row(int64_t r) const {
    return data + r * stride * dtype_size(dtype);
  }
  template <typename T>
  [[nodiscard]] const T* row_as(int64_t r) const {
    LS_CHECK(static_cast<int64_t>(sizeof(T)) == dtype_size(dtype));
    return reinterpret_cast<const T*>(row(r));
  }
  [[nodiscard]] ConstMatrixView slice_cols(int64_t first, int64_t count) const {
    LS_CHECK(first >= 0 && count >= 0 && first + count <= cols);
    return {data + first * dtype_size(dtype), dtype, rows, count, stride};
  }
};

// A weight matrix [out, in] as it lies in the checkpoint, contiguous, in one of F32, BF16, F16 or
// FP8 with block scales.
//
// data carries NO alignment promise (a safetensors offset may be odd): read it with memcpy or
// unaligned loads. With dtype kF8E4M3: value(o, i) = fp8(o, i) * scale[(o / block_rows) *
// scale_stride + i / block_cols]; blocks at the edges are ragged. scale is aligned to 4 bytes,
// finite, and null for every other dtype. Source of the format: DeepSeek-V3's weight_scale_inv,
// 128x128.
struct WeightView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t out = 0;
  int64_t in = 0;
  const float* scale = nullptr;  // [ceil(out / block_rows), scale_stride]
  int64_t scale_stride = 0;      // = ceil(in / block_cols)
  int32_t block_rows = 128;
  int32_t block_cols = 128;

  [[nodiscard]] bool empty() const { return data == nullptr; }
  [[nodiscard]] int64_t bytes() const { return out * in * dtype_size(dtype); }
  [[nodiscard]] int64_t scale_bytes() const {
    if (scale == nullptr) return 0;
    return (out + block_rows - 1) / block_rows * scale_stride * static_cast<int64_t>(sizeof(float));
  }
  // What a product with this matrix reads.
  [[nodiscard]] int64_t bytes_with_scales() const { return bytes() + scale_bytes(); }
  [[nodiscard]] const std::byte* row(int64_t o) const { return data + o * in * dtype_size(dtype); }
};

}  // namespace longshore
