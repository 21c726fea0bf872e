#include "base/check.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// One block per token.
__global__ void __launch_bounds__(kThreads) latent_store_kernel(LatentStoreParams p) {
  __shared__ float sums[kThreads / kWarp];
  const int64_t t = blockIdx.x;
  const auto* row = reinterpret_cast<const float*>(p.kv.data) + t * p.kv.stride;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < p.kv_lora; i += kThreads) squares += row[i] * row[i];
  squares = warp_sum(squares);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = squares;
  __syncthreads();
  squares = 0;
  for (const float sum : sums) squares += sum;
  const float norm = 1.0f / sqrtf(squares / static_cast<float>(p.kv_lora) + p.eps);

  const int32_t position = p.batch.positions[t];
  const int64_t page = page_of(p.batch, p.batch.sequence_of[t], position);
  auto* latent = reinterpret_cast<uint16_t*>(p.cache.data) +
                 (page * kPageTokens + position % kPageTokens) * p.cache.width;
  for (int64_t i = threadIdx.x; i < p.kv_lora; i += kThreads) {
    latent[i] = bf16_from_float(p.norm_weight[i] * (row[i] * norm));
  }
  for (int64_t i = threadIdx.x; i < p.rope_dim / 2; i += kThreads) {
    float sine;
    float cosine;
    sincosf(static_cast<float>(position) * p.inv_freq[i], &sine, &cosine);
    const float even = row[p.kv_lora + 2 * i];
    const float odd = row[p.kv_lora + 2 * i + 1];
    latent[p.kv_lora + 2 * i] = bf16_from_float(even * cosine - odd * sine);
    latent[p.kv_lora + 2 * i + 1] = bf16_from_float(odd * cosine + even * sine);
  }
}

}  // namespace

void latent_store(Context& context, const LatentStoreParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(p.cache.dtype == DType::kBF16);
  if (p.kv.rows == 0) return;
  latent_store_kernel<<<static_cast<unsigned>(p.kv.rows), kThreads, 0, context.stream()>>>(p);
  context.launched("latent_store");
}

}  // namespace longshore::kernels::cuda
