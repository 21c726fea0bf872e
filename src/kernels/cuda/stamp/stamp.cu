// A kernel of one thread rather than an event: a graph may have it anywhere as it is, all stamps
// come back by one copy, and what it costs is what any empty launch costs.
#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/stamp/stamp.h"

namespace longshore::kernels::cuda {
namespace {

// The one clock that all multiprocessors share. Its ticks are up to a microsecond apart: sums of
// many differences are right, a single one need not be.
__global__ void store_time(uint64_t* to) {
  begin_kernel();
  uint64_t now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
  *to = now;
}

LS_LOAD_AT_START(store_time);

}  // namespace

void stamp(Context& context, uint64_t* to) {
  LS_CHECK(to != nullptr);
  launch_kernel(context, "stamp", store_time, {1, 1}, to);
}

}  // namespace longshore::kernels::cuda
