// A layer's routes go out to the host, its decision comes back. Waits are polls by kernels: behind
// a wait of the stream the launch of what needs it would still be to come. No block waits for
// another block, so nothing is kept from running.
#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/exchange/exchange.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// System scope: the host wrote what the word stands for before it wrote the word.
__device__ int32_t poll(const int32_t* word) {
  int32_t seen = 0;
  do {
    asm volatile("ld.acquire.sys.b32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
  } while (seen == 0);
  return seen;
}

template <typename T>
__device__ void copy_part(const T* from, int64_t count, T* to) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride)
    to[i] = from[i];
}

// The block that comes last says that all of it is there.
__global__ void publish(PublishRoutesParams p, int64_t x_words, unsigned* counter) {
  begin_kernel();
  copy_part(p.ids, p.count, p.to_ids);
  if (p.weights != nullptr) {
    copy_part(p.weights, p.count, p.to_weights);
    copy_part(reinterpret_cast<const int4*>(p.x.data), x_words, reinterpret_cast<int4*>(p.to_x));
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (gridDim.x > 1) {
    __threadfence();
    if (atomicInc(counter, gridDim.x - 1) != gridDim.x - 1) return;
    __threadfence();
  }
  // Releases what this thread has seen, all blocks' writes: the one fence that the wire's far end
  // answers.
  asm volatile("st.release.sys.b32 [%0], %1;" : : "l"(p.ready), "r"(1) : "memory");
}

// One block. A decision is a word by itself: who sees it needs nothing else of the host.
__global__ void take(TakeRoutesParams p) {
  begin_kernel();
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) {
    uint64_t word = 0;
    uint64_t tag = 0;
    do {
      asm volatile("ld.relaxed.sys.b64 %0, [%1];" : "=l"(word) : "l"(p.decisions + i) : "memory");
      tag = word >> 48;
    } while (tag != p.tag && tag != RouteDecision::kAny);
    const uint64_t who = word >> 30 & 3;
    const auto expert = static_cast<int32_t>(word >> 32 & 0xFFFF);
    p.to_now[i] = who == RouteDecision::kNow ? expert : -1;
    p.to_later[i] = who == RouteDecision::kLater ? expert : -1;
    if (who != RouteDecision::kLater) continue;
    // Several routes of one expert write the same.
    const std::byte* block =
        p.blocks.base +
        static_cast<int64_t>(word & (RouteDecision::kMostBlocks - 1)) * p.blocks.stride;
    p.table[expert].gate.data = block;
    p.table[expert].up.data = block + p.blocks.up;
    p.table[expert].down.data = block + p.blocks.down;
  }
}

// One thread for all: the host may take milliseconds, and every block's polls would be reads of one
// line of its memory, over the wire that a stream's copies need meanwhile.
__global__ void await_sum(const int32_t* word, int32_t* said) {
  begin_kernel();
  *said = poll(word);
}

// Grid: y.rows in y. kWide: four columns at a time, as rows allow: fewer and longer reads of the
// host's memory.
template <bool kWide>
__global__ void accumulate(AddParams p, const int32_t* said) {
  begin_kernel();
  if (*said != RouteExchange::kThere) return;
  const float* x = reinterpret_cast<const float*>(p.x.data) + int64_t{blockIdx.y} * p.x.stride;
  float* y = reinterpret_cast<float*>(p.y.data) + int64_t{blockIdx.y} * p.y.stride;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if constexpr (kWide) {
    const auto* from = reinterpret_cast<const float4*>(x);
    auto* to = reinterpret_cast<float4*>(y);
    for (int64_t i = first; i < p.y.cols / 4; i += stride) {
      const float4 more = __ldcv(from + i);
      const float4 sum = to[i];
      to[i] = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
  } else {
    for (int64_t i = first; i < p.y.cols; i += stride) y[i] += __ldcv(x + i);
  }
}

bool wide(const AddParams& p) {
  const auto address =
      reinterpret_cast<uintptr_t>(p.x.data) | reinterpret_cast<uintptr_t>(p.y.data);
  return address % sizeof(float4) == 0 && (p.y.cols | p.x.stride | p.y.stride) % 4 == 0;
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

LS_LOAD_AT_START(publish);

}  // namespace

void publish_routes(Context& context, const PublishRoutesParams& p, unsigned* counter) {
  LS_CHECK(p.ids != nullptr && p.to_ids != nullptr && p.ready != nullptr && p.count >= 1);
  int64_t x_words = 0;
  if (p.weights != nullptr) {
    LS_CHECK(p.to_weights != nullptr && p.to_x != nullptr && p.x.stride == p.x.cols);
    const int64_t bytes = p.x.rows * p.x.cols * dtype_size(p.x.dtype);
    constexpr auto kWord = static_cast<int64_t>(sizeof(int4));
    const auto address =
        reinterpret_cast<uintptr_t>(p.x.data) | reinterpret_cast<uintptr_t>(p.to_x);
    LS_CHECK_MSG(bytes % kWord == 0 && address % sizeof(int4) == 0, "{} bytes of x", bytes);
    x_words = bytes / kWord;
  }
  // A block writes 4 KB at a time: few of them fill the wire, and one for one token needs no other.
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(x_words / (4 * kThreads), 1, 32));
  launch_kernel(context, "publish_routes", publish, {blocks, kThreads}, p, x_words, counter);
}

void take_routes(Context& context, const TakeRoutesParams& p) {
  LS_CHECK(p.decisions != nullptr && p.count >= 1 && p.tag >= 1 && p.tag < RouteDecision::kAny);
  LS_CHECK(p.table != nullptr && p.to_now != nullptr && p.to_later != nullptr);
  launch_kernel(context, "take_routes", take, {1, kThreads}, p);
}

void add_when(Context& context, const AddParams& p, const int32_t* word, int32_t* said) {
  validate(p);
  LS_CHECK(word != nullptr && said != nullptr && p.y.rows >= 1 && p.y.cols >= 1);
  LS_CHECK_MSG(p.y.rows <= 65535, "{} rows", p.y.rows);
  const int64_t units = wide(p) ? p.y.cols / 4 : p.y.cols;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(ceil_div(units, kThreads), 32)),
                  static_cast<unsigned>(p.y.rows));
  launch_kernel(context, "add_when", await_sum, {1, 1}, word, said);
  launch_kernel(context, "add_when", wide(p) ? accumulate<true> : accumulate<false>,
                {grid, kThreads}, p, said);
}

}  // namespace longshore::kernels::cuda
