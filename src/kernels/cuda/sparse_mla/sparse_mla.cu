#include "base/check.h"
#include "kernels/cuda/sparse_mla/sparse_mla.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {

void sparse_mla(Context& context, const SparseMlaParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(p.cache.dtype != DType::kF32);
  if (p.o.rows == 0) return;
  constexpr int64_t kMostTokens = 65535;  // of one launch: the z extent of a grid
  LS_CHECK_MSG(p.o.rows <= kMostTokens, "{} tokens at once", p.o.rows);
  const auto attend = takes_sparse_mla_hopper(context, p) ? sparse_mla_hopper : sparse_mla_any;
  attend(context, p);
}

}  // namespace longshore::kernels::cuda
