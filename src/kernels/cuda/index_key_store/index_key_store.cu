#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/format/e4m3.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int64_t kMostColumns = 2048;  // of the rows in shared memory

// x = layer_norm(x), one warp.
__device__ void layer_norm_row(float* x, const IndexKeyStoreParams& p, int n, int lane) {
  float sum = 0;
  for (int i = lane; i < n; i += kWarp) sum += x[i];
  const float mean = warp_sum(sum) / static_cast<float>(n);
  float squares = 0;
  for (int i = lane; i < n; i += kWarp) {
    x[i] -= mean;
    squares += x[i] * x[i];
  }
  const float norm = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(n) + p.eps);
  for (int i = lane; i < n; i += kWarp) x[i] = x[i] * norm * p.norm_weight[i] + p.norm_bias[i];
}

// One warp per token.
__global__ void __launch_bounds__(kWarps* kWarp) index_key_store_kernel(IndexKeyStoreParams p) {
  begin_kernel();
  extern __shared__ float rows[];  // [kWarps, head_dim]
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (t >= p.k.rows) return;
  const int n = static_cast<int>(p.cache.head_dim);
  float* key = rows + warp * n;
  const auto* from = reinterpret_cast<const float*>(p.k.data) + t * p.k.stride;
  for (int i = lane; i < n; i += kWarp) key[i] = from[i];
  layer_norm_row(key, p, n, lane);
  const int32_t position = p.batch.positions[t];
  rope_row(key, p.rope_dim, position, p.inv_freq, lane);
  hadamard_row(key, n, lane);

  float amax = 0;
  for (int i = lane; i < n; i += kWarp) amax = fmaxf(amax, fabsf(key[i]));
  const float scale = warp_max(amax) / kE4m3Max;
  const int64_t page = page_of(p.batch, p.batch.sequence_of[t], position);
  const int slot = position % kPageTokens;
  std::byte* to = p.cache.data + page * kPageTokens * (n + 4);
  for (int i = lane; i < n; i += kWarp) {
    to[slot * n + i] = static_cast<std::byte>(scale > 0 ? e4m3_from_float(key[i] / scale) : 0);
  }
  if (lane == 0) reinterpret_cast<float*>(to + kPageTokens * n)[slot] = scale;
}

// Keys of 128 columns, one warp per token.
__global__ void __launch_bounds__(kWarps* kWarp) index_key_store_128_kernel(IndexKeyStoreParams p) {
  begin_kernel();
  constexpr int kDim = 128;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (t >= p.k.rows) return;
  const int32_t position = p.batch.positions[t];
  const int64_t page = page_of(p.batch, p.batch.sequence_of[t], position);
  Row128 key;
  key.load(reinterpret_cast<const float*>(p.k.data) + t * p.k.stride, lane);
  const float mean = key.sum() / kDim;
  Row128 squares;
  for (int i = 0; i < 4; ++i) {
    key.x[i] -= mean;
    squares.x[i] = key.x[i] * key.x[i];
  }
  const float norm = 1.0f / sqrtf(squares.sum() / kDim + p.eps);
  for (int i = 0; i < 4; ++i) {
    key.x[i] = key.x[i] * norm * p.norm_weight[4 * lane + i] + p.norm_bias[4 * lane + i];
  }
  key.rope(p.rope_dim, position, p.inv_freq, lane);
  key.hadamard(lane);
  const float scale = key.highest_magnitude() / kE4m3Max;
  uint32_t codes = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = scale > 0 ? e4m3_from_float(key.x[i] / scale) : 0;
    codes |= code << (8 * i);
  }
  const int slot = position % kPageTokens;
  std::byte* to = p.cache.data + page * kPageTokens * (kDim + 4);
  reinterpret_cast<uint32_t*>(to)[slot * kDim / 4 + lane] = codes;
  if (lane == 0) reinterpret_cast<float*>(to + kPageTokens * kDim)[slot] = scale;
}

LS_LOAD_AT_START(index_key_store_kernel);

}  // namespace

void index_key_store(Context& context, const IndexKeyStoreParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(p.cache.dtype == DType::kF8E4M3);
  LS_CHECK_MSG(p.cache.head_dim <= kMostColumns, "index keys of {} columns", p.cache.head_dim);
  if (p.k.rows == 0) return;
  const auto blocks = static_cast<unsigned>((p.k.rows + kWarps - 1) / kWarps);
  if (p.cache.head_dim == 128) {
    launch_kernel(context, "index_key_store", index_key_store_128_kernel, {blocks, kWarps * kWarp},
                  p);
    return;
  }
  const auto shared = static_cast<size_t>(kWarps * p.cache.head_dim) * sizeof(float);
  launch_kernel(context, "index_key_store", index_key_store_kernel,
                {blocks, kWarps * kWarp, shared}, p);
}

}  // namespace longshore::kernels::cuda
