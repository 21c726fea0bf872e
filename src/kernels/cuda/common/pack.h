// Activations as the fast kernels read them: bf16, rows aligned to 16 bytes.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {

// x itself if it is so already, else a copy in scratch memory. Columns beyond x's do not exist.
[[nodiscard]] ConstMatrixView packed(Context& context, const ConstMatrixView& x);
// Tokens for common/tile.cuh, in scratch memory.
struct TileTokens {
  const __half* x = nullptr;      // [rows, cols], columns in the order of tile_column
  const float* factor = nullptr;  // [rows]: what x times this is, was packed
};
// x.cols is a multiple of 64.
[[nodiscard]] TileTokens packed_for_tiles(Context& context, const ConstMatrixView& x);
// Rows [rows, cols] in the order of tile_column, bf16 in place to fp16. largest [rows]: of each
// row's magnitudes, replaced by its factor.
void fit_for_tiles(Context& context, void* x, float* largest, int64_t rows, int64_t cols);
// The scratch memory that either takes at most.
[[nodiscard]] int64_t packed_bytes(int64_t rows, int64_t cols);

}  // namespace longshore::kernels::cuda
