// Block scales of FP8 weights: where the scale of an element lies and how far it reaches.
// base/tensor.h has the layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/tensor.h"

namespace longshore::kernels {

// The scales of row o: element i has scale_row(w, o)[i / w.block_cols].
[[nodiscard]] inline const float* scale_row(const WeightView& w, int64_t o) {
  return w.scale + (o / w.block_rows) * w.scale_stride;
}

// The first column after column i's block, cut at the matrix's edge.
[[nodiscard]] inline int64_t block_end(const WeightView& w, int64_t i) {
  return std::min((i / w.block_cols + 1) * w.block_cols, w.in);
}

}  // namespace longshore::kernels
