#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/index_gather/index_gather.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int64_t kMostSequences = 4096;  // whose running sums fit in shared memory

// Keys of any size, a byte at a time: small models.
__global__ void __launch_bounds__(kGatherThreads) gather_any_kernel(IndexGatherParams p) {
  begin_kernel();
  extern __shared__ int32_t sums[];
  int32_t* tokens = sums;
  int32_t* items = sums + p.sequences + 1;
  sum_lengths(p, tokens, items);
  const int64_t n = p.cache.head_dim;
  for (int64_t b = 0; b < p.sequences; ++b) {
    const int32_t length = tokens[b + 1] - tokens[b];
    for (int32_t s = static_cast<int32_t>(blockIdx.x); s < length;
         s += static_cast<int32_t>(gridDim.x)) {
      const int64_t page = p.page_table[b * p.page_table_width + s / kPageTokens];
      const std::byte* from = p.cache.data + page * kPageTokens * (n + 4);
      const int64_t to = tokens[b] + s;
      const int64_t slot = s % kPageTokens;
      for (int64_t i = threadIdx.x; i < n; i += kGatherThreads) {
        p.keys[to * n + i] = from[slot * n + i];
      }
      if (threadIdx.x == 0) {
        p.scales[to] = reinterpret_cast<const float*>(from + kPageTokens * n)[slot];
      }
    }
  }
}

LS_LOAD_AT_START(gather_any_kernel);

}  // namespace

void index_gather(Context& context, const IndexGatherParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK_MSG(p.sequences <= kMostSequences, "{} sequences", p.sequences);
  if (p.sequences == 0) return;
  const auto blocks =
      static_cast<unsigned>(context.multiprocessors() * kGatherBlocksPerMultiprocessor);
  const auto shared = static_cast<size_t>(2 * (p.sequences + 1)) * sizeof(int32_t);
  const bool wide = aligned(p.cache.data, 16) && aligned(p.keys, 16);
  if (p.cache.head_dim == kKeyBytes && wide) {
    launch_kernel(context, "index_gather", index_gather_kernel<0>, {blocks, kGatherThreads, shared},
                  p);
  } else {
    launch_kernel(context, "index_gather", gather_any_kernel, {blocks, kGatherThreads, shared}, p);
  }
}

}  // namespace longshore::kernels::cuda
