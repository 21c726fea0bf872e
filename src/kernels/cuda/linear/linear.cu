#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/linear/generic.h"
#include "kernels/cuda/linear/library.h"
#include "kernels/cuda/linear/stream.h"
#include "kernels/cuda/linear/tile.h"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

// Tokens [first, first + count).
LinearParams slice(const LinearParams& params, int64_t first, int64_t count) {
  LinearParams p = params;
  p.x.data = params.x.row(first);
  p.x.rows = count;
  p.y = params.y.slice_rows(first, count);
  return p;
}

HeadLinearParams one_head(const LinearParams& p) {
  return {.x = p.x,
          .x_head_stride = p.x.cols,
          .heads = 1,
          .w = p.w,
          .y = p.y,
          .y_head_stride = p.w.out};
}

// Tiles that leave most multiprocessors idle lose to rereading the weights from the second cache.
bool worth_tiles(const Context& context, const LinearParams& p) {
  constexpr int64_t kFewTokens = 128;
  if (p.x.rows <= kStreamTokens) return false;
  return p.x.rows > kFewTokens || tile_blocks(p) * 2 >= context.multiprocessors();
}

}  // namespace

void linear(Context& context, const LinearParams& params) {
  validate(params);
  if (params.x.rows == 0) return;
  const bool tiles = can_tile(context, params.w) && worth_tiles(context, params);
  if (!tiles && !can_stream(params.w, params.w.out)) {
    return generic_product(context, one_head(params), params.accumulate);
  }
  // The fast kernels read packed tokens: as many at a time as there is scratch memory for.
  const int64_t most =
      std::max<int64_t>(1, context.scratch_left() / packed_bytes(1, params.x.cols));
  for (int64_t first = 0; first < params.x.rows; first += most) {
    ScratchScope scope(context);
    LinearParams p = slice(params, first, std::min(most, params.x.rows - first));
    if (tiles) {
      tile_linear(context, p);
    } else {
      p.x = packed(context, p.x);
      packed_linear(context, one_head(p), p.accumulate);
    }
  }
}

}  // namespace longshore::kernels::cuda
