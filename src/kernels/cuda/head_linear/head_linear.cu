#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/linear/generic.h"
#include "kernels/cuda/linear/stream.h"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {

void head_linear(Context& context, const HeadLinearParams& params) {
  validate(params);
  if (params.x.rows == 0) return;
  const int64_t bytes = packed_bytes(params.x.rows, params.x.cols);
  if (!can_stream(params.w, params.w.out / params.heads) || params.x_head_stride % 8 != 0 ||
      bytes > context.scratch_left()) {
    return generic_product(context, params, /*accumulate=*/false);
  }
  ScratchScope scope(context);
  HeadLinearParams p = params;
  p.x = packed(context, p.x);
  packed_linear(context, p, /*accumulate=*/false);
}

}  // namespace longshore::kernels::cuda
