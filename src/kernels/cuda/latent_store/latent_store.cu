#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// c = norm_weight * row * norm, in FP8: a warp takes a group of columns, a lane four of them.
__device__ void store_fp8(const LatentStoreParams& p, const float* row, float norm,
                          std::byte* latent) {
  constexpr int kColumns = 4;  // of a lane
  static_assert(kLatentGroup == kColumns * kWarp);
  const int64_t lane = threadIdx.x % kWarp;
  auto* codes = reinterpret_cast<uint32_t*>(latent);
  auto* scales = reinterpret_cast<float*>(latent + LatentCacheView::scales_at(p.kv_lora));
  for (int64_t group = threadIdx.x / kWarp; group * kLatentGroup < p.kv_lora;
       group += kThreads / kWarp) {
    const int64_t first = group * kLatentGroup + lane * kColumns;
    float values[kColumns];
    unsigned highest = 0;  // magnitudes have the order of their bits, NaN above all
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const bool inside = first + i < p.kv_lora;
      values[i] = inside ? p.norm_weight[first + i] * (row[first + i] * norm) : 0.0f;
      highest = max(highest, __float_as_uint(values[i]) & 0x7fffffffu);
    }
    const float scale = latent_scale(__uint_as_float(__reduce_max_sync(kWholeWarp, highest)));
    if (lane == 0) scales[group] = scale;
    if (first >= p.kv_lora) continue;
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      word |= uint32_t{e4m3_from_float(values[i] / scale)} << (8 * i);
    }
    codes[first / kColumns] = word;
  }
}

// One block per token.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) latent_store_kernel(LatentStoreParams p) {
  begin_kernel();
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
  std::byte* latent = latent_of<kFp8>(p.cache, page, position);
  auto* rotated = reinterpret_cast<uint16_t*>(
      latent + (kFp8 ? LatentCacheView::rope_at(p.kv_lora) : p.kv_lora * 2));
  if constexpr (kFp8) {
    store_fp8(p, row, norm, latent);
  } else {
    auto* c = reinterpret_cast<uint16_t*>(latent);
    for (int64_t i = threadIdx.x; i < p.kv_lora; i += kThreads) {
      c[i] = bf16_from_float(p.norm_weight[i] * (row[i] * norm));
    }
  }
  for (int64_t i = threadIdx.x; i < p.rope_dim / 2; i += kThreads) {
    float sine;
    float cosine;
    sincosf(static_cast<float>(position) * p.inv_freq[i], &sine, &cosine);
    const float even = row[p.kv_lora + 2 * i];
    const float odd = row[p.kv_lora + 2 * i + 1];
    rotated[2 * i] = bf16_from_float(even * cosine - odd * sine);
    rotated[2 * i + 1] = bf16_from_float(odd * cosine + even * sine);
  }
}

LS_LOAD_AT_START(latent_store_kernel<false>);

}  // namespace

void latent_store(Context& context, const LatentStoreParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(p.cache.dtype != DType::kF32);
  if (p.kv.rows == 0) return;
  const auto kernel =
      p.cache.dtype == DType::kF8E4M3 ? latent_store_kernel<true> : latent_store_kernel<false>;
  launch_kernel(context, "latent_store", kernel, {static_cast<unsigned>(p.kv.rows), kThreads}, p);
}

}  // namespace longshore::kernels::cuda
