#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/common/tile.cuh"
#include "kernels/cuda/linear/tile.h"

namespace longshore::kernels::cuda {
namespace {

// Writes sums [2][kTokens / 2] of tile_product. kAccumulate: y is fp32.
template <typename Element, bool kAccumulate, int kTokens>
__device__ void store(const LinearParams& p, const float* factor, int64_t first_row,
                      int64_t first_token, const float (&sums)[2][kTokens / 2]) {
#pragma unroll
  for (int pair = 0; pair < kTokens / 4; ++pair) {  // values of one token, rows 8 apart
    const int i = pair / 2 * 4 + pair % 2;
    const int64_t t = first_token + tile_token(i);
    if (t >= p.x.rows) continue;
    auto* y = reinterpret_cast<Element*>(p.y.data) + t * p.y.stride + first_row + tile_row(i);
    const int left = static_cast<int>(min(p.w.out - first_row, int64_t{kTileRows})) - tile_row(i);
    const float scale = factor[t];
    float before[4] = {};
    if constexpr (kAccumulate) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int row = n / 2 * kTileHalf + n % 2 * 8;
        if (row < left) before[n] = y[row];
      }
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int row = n / 2 * kTileHalf + n % 2 * 8;
      if (row < left) {
        y[row] = static_cast<Element>(fmaf(sums[n / 2][i + n % 2 * 2], scale, before[n]));
      }
    }
  }
}

// Grid: (tokens / kTokens, rows / kTileRows).
template <int kTokens>
__global__ void __launch_bounds__(kTileThreads, 1) tile_rows(LinearParams p, TileTokens tokens) {
  begin_kernel();
#ifdef LS_WGMMA
  extern __shared__ __align__(1024) std::byte shared[];
  auto& memory = *reinterpret_cast<TileMemory<kTokens>*>(shared);
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTileRows;
  const int blocks = static_cast<int>(p.w.in / kTileColumns);
  for (int r = threadIdx.x; r < kTileRows; r += kTileThreads) {
    memory.weight_rows[r] = p.w.data + min(first_row + r, p.w.out - 1) * p.w.in;
  }
  for (int t = threadIdx.x; t < kTokens; t += kTileThreads) {
    const __half* row = tokens.x + (first_token + t) * p.w.in;
    memory.token_rows[t] =
        first_token + t < p.x.rows ? reinterpret_cast<const std::byte*>(row) : nullptr;
  }
  for (int group = 0; group < 4; ++group) {
    const int64_t row = min(first_row + group * 64, p.w.out - 1);
    put_scales(memory, group, 0, p.w.scale + row / p.w.block_rows * p.w.scale_stride, blocks);
  }
  memory.init();
  __syncthreads();
  tile_product(memory, {blocks, 1, 0}, [&](int, const float(&sums)[2][kTokens / 2]) {
    if (p.y.dtype == DType::kBF16) {
      store<__nv_bfloat16, false, kTokens>(p, tokens.factor, first_row, first_token, sums);
    } else if (p.accumulate) {
      store<float, true, kTokens>(p, tokens.factor, first_row, first_token, sums);
    } else {
      store<float, false, kTokens>(p, tokens.factor, first_row, first_token, sums);
    }
  });
#else
  __trap();
#endif
}

template <int kTokens>
void launch(Context& context, const LinearParams& p, const TileTokens& tokens) {
  constexpr int kBytes = sizeof(TileMemory<kTokens>);
  context.check(
      cudaFuncSetAttribute(tile_rows<kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "linear");
  const dim3 grid(static_cast<unsigned>(ceil_div(p.x.rows, kTokens)),
                  static_cast<unsigned>(ceil_div(p.w.out, kTileRows)));
  launch_kernel(context, "linear", tile_rows<kTokens>, {grid, kTileThreads, kBytes}, p, tokens);
}

LS_LOAD_AT_START(tile_rows<32>);

}  // namespace

bool can_tile(const Context& context, const WeightView& w) {
  return context.compute_capability() == 90 && w.dtype == DType::kF8E4M3 && aligned(w.data, 16) &&
         w.in % kTileColumns == 0 && w.in <= kMostTileBlocks * kTileColumns &&
         w.block_cols == kTileColumns && w.block_rows % 64 == 0;
}

int64_t tile_blocks(const LinearParams& p) {
  return ceil_div(p.w.out, kTileRows) * ceil_div(p.x.rows, 32);
}

void tile_linear(Context& context, const LinearParams& p) {
  const TileTokens tokens = packed_for_tiles(context, p.x);
  // Fewer tokens a block where else some multiprocessors would idle.
  const int64_t rows = ceil_div(p.w.out, kTileRows);
  if (p.x.rows > 64 && rows * ceil_div(p.x.rows, 128) * 2 > context.multiprocessors()) {
    return launch<128>(context, p, tokens);
  }
  if (p.x.rows > 32 && rows * ceil_div(p.x.rows, 64) * 2 > context.multiprocessors()) {
    return launch<64>(context, p, tokens);
  }
  launch<32>(context, p, tokens);
}

}  // namespace longshore::kernels::cuda
