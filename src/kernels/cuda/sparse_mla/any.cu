#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
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

// One position's latent, c | k_rope.
template <bool kFp8>
struct Latent {
  const std::byte* data;
  int64_t kv_lora;

  __device__ Latent(const SparseMlaParams& p, int64_t sequence, int32_t position)
      : data(latent_of<kFp8>(p.cache, page_of(p.batch, sequence, position), position)),
        kv_lora(p.kv_lora) {}

  __device__ float operator[](int64_t i) const {
    if constexpr (!kFp8) return load_activation(data, DType::kBF16, i);
    if (i >= kv_lora) {
      return load_activation(data + LatentCacheView::rope_at(kv_lora), DType::kBF16, i - kv_lora);
    }
    const auto* scales = reinterpret_cast<const float*>(data + LatentCacheView::scales_at(kv_lora));
    return e4m3_decode(static_cast<uint8_t>(data[i])) * scales[i / kLatentGroup];
  }
};

// One block per head and token.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) sparse_mla_any_kernel(SparseMlaParams p) {
  begin_kernel();
  extern __shared__ float weights[];  // [selected_stride], then the query [kv_lora + rope_dim]
  __shared__ float partial[kWarps];
  const int64_t h = blockIdx.x;
  const int64_t t = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t width = p.kv_lora + p.rope_dim;
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
    const Latent<kFp8> latent(p, sequence, selected[i]);
    float product = 0;
    for (int64_t j = lane; j < width; j += kWarp) {
      product += query[j] * latent[j];
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
      sum += weights[i] * Latent<kFp8>(p, sequence, selected[i])[j];
    }
    store_activation(p.o.data + t * p.o.stride * out_size, p.o.dtype, h * p.kv_lora + j,
                     sum / total);
  }
}

LS_LOAD_AT_START(sparse_mla_any_kernel<false>);

}  // namespace

void sparse_mla_any(Context& context, const SparseMlaParams& p) {
  const int64_t bytes = (p.selected_stride + p.cache.width()) * int64_t{sizeof(float)};
  LS_CHECK_MSG(bytes <= context.shared_bytes_per_block() - 1024,
               "{} positions a token exceed the shared memory of this form", p.selected_stride);
  const auto kernel =
      p.cache.dtype == DType::kF8E4M3 ? sparse_mla_any_kernel<true> : sparse_mla_any_kernel<false>;
  context.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(bytes)),
                "sparse_mla");
  const dim3 grid(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.o.rows));
  launch_kernel(context, "sparse_mla", kernel, {grid, kThreads, static_cast<size_t>(bytes)}, p);
}

}  // namespace longshore::kernels::cuda
