#include "base/check.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/sparse_mla/sparse_mla.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// The same value in every thread of the block.
template <typename Combine>
__device__ float block_reduce(float value, float* partial, Combine combine) {
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = partial[0];
  for (int w = 1; w < kWarps; ++w) value = combine(value, partial[w]);
  __syncthreads();
  return value;
}

__device__ const std::byte* latent_at(const SparseMlaParams& p, int64_t sequence,
                                      int32_t position) {
  const int64_t page = page_of(p.batch, sequence, position);
  return p.cache.data +
         (page * kPageTokens + position % kPageTokens) * p.cache.width * int64_t{sizeof(uint16_t)};
}

// One block per head and token.
__global__ void __launch_bounds__(kThreads) sparse_mla_any_kernel(SparseMlaParams p) {
  extern __shared__ float weights[];  // [selected_stride], then the query [kv_lora + rope_dim]
  __shared__ float partial[kWarps];
  const int64_t h = blockIdx.x;
  const int64_t t = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t width = p.cache.width;
  const int count = p.counts[t];
  const int32_t* selected = p.selected + t * p.selected_stride;
  const int64_t sequence = p.batch.sequence_of[t];
  float* query = weights + p.selected_stride;
  const int64_t size = p.q.dtype == DType::kF32 ? 4 : 2;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    query[i] =
        i < p.kv_lora
            ? load_activation(p.q_c.data + t * p.q_c.stride * size, p.q_c.dtype, h * p.kv_lora + i)
            : load_activation(p.q.data + t * p.q.stride * size, p.q.dtype,
                              h * p.q_head_stride + p.q_rope_offset + i - p.kv_lora);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < count; i += kWarps) {
    const std::byte* latent = latent_at(p, sequence, selected[i]);
    float product = 0;
    for (int64_t j = lane; j < width; j += kWarp) {
      product += query[j] * load_activation(latent, DType::kBF16, j);
    }
    product = warp_sum(product);
    if (lane == 0) weights[i] = product * p.scale;
  }
  __syncthreads();
  float highest = -INFINITY;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    highest = fmaxf(highest, weights[i]);
  }
  highest = block_reduce(warp_max(highest), partial, [](float a, float b) { return fmaxf(a, b); });
  float total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    weights[i] = expf(weights[i] - highest);
    total += weights[i];
  }
  total = block_reduce(warp_sum(total), partial, [](float a, float b) { return a + b; });
  const int64_t out_size = p.o.dtype == DType::kF32 ? 4 : 2;
  for (int64_t j = threadIdx.x; j < p.kv_lora; j += kThreads) {
    float sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += weights[i] * load_activation(latent_at(p, sequence, selected[i]), DType::kBF16, j);
    }
    store_activation(p.o.data + t * p.o.stride * out_size, p.o.dtype, h * p.kv_lora + j,
                     sum / total);
  }
}

}  // namespace

void sparse_mla_any(Context& context, const SparseMlaParams& p) {
  const int64_t bytes = (p.selected_stride + p.cache.width) * int64_t{sizeof(float)};
  LS_CHECK_MSG(bytes <= context.shared_bytes_per_block() - 1024,
               "{} positions a token exceed the shared memory of this form", p.selected_stride);
  context.check(
      cudaFuncSetAttribute(sparse_mla_any_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes)),
      "sparse_mla");
  const dim3 grid(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.o.rows));
  sparse_mla_any_kernel<<<grid, kThreads, static_cast<size_t>(bytes), context.stream()>>>(p);
  context.launched("sparse_mla");
}

}  // namespace longshore::kernels::cuda
