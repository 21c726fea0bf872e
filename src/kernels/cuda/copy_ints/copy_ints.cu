// Small arrays travel as kernel parameters: no copy engine and no pinned staging memory, and the
// driver keeps the values with the launch, so that the caller may reuse its array at once.
#include <algorithm>

#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <int kMost>
struct Values {
  int32_t value[kMost];
};

template <int kMost>
__global__ void store_values(const __grid_constant__ Values<kMost> values, int count, int32_t* to) {
  begin_kernel();
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i < count) to[i] = values.value[i];
}

template <int kMost>
void launch(Context& context, const int32_t* host, int count, int32_t* to) {
  Values<kMost> values;
  std::copy_n(host, count, values.value);
  launch_kernel(context, "copy_ints", store_values<kMost>,
                {(count + kThreads - 1) / kThreads, kThreads}, values, count, to);
}

// A launch takes 32,764 bytes of parameters (compute capability 7.0, driver 530); two of ours are a
// count and a pointer. Smaller launches exist because the driver copies all of a kernel's
// parameters whatever the count.
constexpr int kMostInts = 8176;

LS_LOAD_AT_START(store_values<64>);

}  // namespace

void copy_ints(Context& context, const int32_t* host, int64_t count, int32_t* to) {
  LS_CHECK_MSG(count >= 0 && (count == 0 || (host != nullptr && to != nullptr)), "{} values",
               count);
  for (int64_t first = 0; first < count; first += kMostInts) {
    const int part = static_cast<int>(std::min<int64_t>(count - first, kMostInts));
    if (part <= 64) {
      launch<64>(context, host + first, part, to + first);
    } else if (part <= 960) {
      launch<960>(context, host + first, part, to + first);
    } else {
      launch<kMostInts>(context, host + first, part, to + first);
    }
  }
}

}  // namespace longshore::kernels::cuda
