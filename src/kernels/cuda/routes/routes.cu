// What passes between the router and those who compute experts: copies to mapped host memory, masks
// of routes, sums.
#include "device/cuda/kernels.h"
#include "device/cuda/words.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;
// Enough to keep a wire busy; more would only take multiprocessors from others.
constexpr int64_t kMostBlocks = 32;

unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((items + kThreads - 1) / kThreads, 1, kMostBlocks));
}

// Grid-stride. T: int4 where both ends are aligned, else bytes.
template <typename T>
__global__ void copy(const T* from, int64_t count, T* to) {
  begin_kernel();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride)
    to[i] = from[i];
}

__global__ void mask(MaskRoutesParams p) {
  begin_kernel();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < p.count; i += stride) {
    const int32_t id = p.ids[i];
    p.out[i] = id >= 0 && id < p.num_experts && p.keep[id] != 0 ? id : -1;
  }
}

// Grid: y.rows in y.
__global__ void accumulate(AddParams p) {
  begin_kernel();
  const float* x = reinterpret_cast<const float*>(p.x.data) + int64_t{blockIdx.y} * p.x.stride;
  float* y = reinterpret_cast<float*>(p.y.data) + int64_t{blockIdx.y} * p.y.stride;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < p.y.cols; i += stride)
    y[i] += x[i];
}

LS_LOAD_AT_START(mask);

}  // namespace

void copy_out(Context& context, const std::byte* from, int64_t bytes, std::byte* to) {
  LS_CHECK(bytes >= 0 && (bytes == 0 || (from != nullptr && to != nullptr)));
  if (bytes == 0) return;
  const auto address = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to);
  if ((address | static_cast<uintptr_t>(bytes)) % sizeof(int4) == 0) {
    const int64_t count = bytes / static_cast<int64_t>(sizeof(int4));
    launch_kernel(context, "copy_out", copy<int4>, {blocks_for(count), kThreads},
                  reinterpret_cast<const int4*>(from), count, reinterpret_cast<int4*>(to));
  } else {
    launch_kernel(context, "copy_out", copy<std::byte>, {blocks_for(bytes), kThreads}, from, bytes,
                  to);
  }
}

void wait_for_host(Context& context, const int32_t* flag, int32_t value) {
  LS_CHECK(flag != nullptr);
  device::cuda::wait_for_word(context, context.stream(), flag, value);
}

void mask_routes(Context& context, const MaskRoutesParams& p) {
  validate(p, Contents::kOnDevice);
  if (p.count == 0) return;
  launch_kernel(context, "mask_routes", mask, {blocks_for(p.count), kThreads}, p);
}

void add(Context& context, const AddParams& p) {
  validate(p);
  if (p.y.rows == 0 || p.y.cols == 0) return;
  LS_CHECK_MSG(p.y.rows <= 65535, "{} rows", p.y.rows);
  const dim3 grid(blocks_for(p.y.cols), static_cast<unsigned>(p.y.rows));
  launch_kernel(context, "add", accumulate, {grid, kThreads}, p);
}

}  // namespace longshore::kernels::cuda
