#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/common/tile.cuh"

namespace longshore::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Grid: rows.
__global__ void pack_rows(ConstMatrixView x, __nv_bfloat16* to, int64_t stride) {
  begin_kernel();
  const int64_t r = blockIdx.x;
  const std::byte* row = x.data + r * x.stride * dtype_size(x.dtype);
  for (int64_t i = threadIdx.x; i < x.cols; i += kThreads) {
    to[r * stride + i] = __float2bfloat16_rn(load_activation(row, x.dtype, i));
  }
}

// Grid: rows.
__global__ void __launch_bounds__(kThreads)
    pack_rows_for_tiles(ConstMatrixView x, __half* to, float* factor) {
  begin_kernel();
  __shared__ float parts[kThreads / kWarp];
  const int64_t r = blockIdx.x;
  const std::byte* row = x.data + r * x.stride * dtype_size(x.dtype);
  float largest = 0;
  bool finite = true;
  for (int64_t i = threadIdx.x; i < x.cols; i += kThreads) {
    const float value = round_to_bf16(load_activation(row, x.dtype, i));
    finite = finite && isfinite(value);
    largest = fmaxf(largest, fabsf(value));
  }
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  }
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = largest;
  finite = __syncthreads_and(finite ? 1 : 0) != 0;
  largest = 0;
  for (const float part : parts) largest = fmaxf(largest, part);
  const int exponent = finite ? fit_exponent(largest) : 0;
  if (threadIdx.x == 0) factor[r] = ldexpf(1.0f, -exponent);
  __half* out = to + r * x.cols;
  for (int64_t i = threadIdx.x; i < x.cols; i += kThreads) {
    const float value = round_to_bf16(load_activation(row, x.dtype, i));
    out[tile_column(i)] = __float2half_rn(ldexpf(value, exponent));
  }
}

// Grid: rows.
__global__ void __launch_bounds__(kThreads)
    fit_rows(__nv_bfloat162* x, float* largest, int64_t pairs) {
  begin_kernel();
  const int64_t r = blockIdx.x;
  const float most = largest[r];
  const int exponent = fit_exponent(most);
  __syncthreads();
  if (threadIdx.x == 0) largest[r] = ldexpf(1.0f, -exponent);
  __nv_bfloat162* row = x + r * pairs;
  for (int64_t i = threadIdx.x; i < pairs; i += kThreads) {
    const float2 value = __bfloat1622float2(row[i]);
    reinterpret_cast<__half2*>(row)[i] =
        __floats2half2_rn(ldexpf(value.x, exponent), ldexpf(value.y, exponent));
  }
}

int64_t packed_stride(int64_t cols) {
  return ceil_div(cols, 8) * 8;
}

LS_LOAD_AT_START(pack_rows);

}  // namespace

int64_t packed_bytes(int64_t rows, int64_t cols) {
  return rows * (packed_stride(cols) * 2 + 4) + 2 * 256;
}

ConstMatrixView packed(Context& context, const ConstMatrixView& x) {
  if (x.dtype == DType::kBF16 && x.stride % 8 == 0 && aligned(x.data, 16)) return x;
  const int64_t stride = packed_stride(x.cols);
  auto* to = context.scratch<__nv_bfloat16>(x.rows * stride);
  launch_kernel(context, "packing activations", pack_rows,
                {static_cast<unsigned>(x.rows), kThreads}, x, to, stride);
  return {reinterpret_cast<const std::byte*>(to), DType::kBF16, x.rows, x.cols, stride};
}

TileTokens packed_for_tiles(Context& context, const ConstMatrixView& x) {
  LS_CHECK_MSG(x.cols % 64 == 0, "{} columns", x.cols);
  auto* to = context.scratch<__half>(x.rows * x.cols);
  auto* factor = context.scratch<float>(x.rows);
  launch_kernel(context, "packing activations", pack_rows_for_tiles,
                {static_cast<unsigned>(x.rows), kThreads}, x, to, factor);
  return {to, factor};
}

void fit_for_tiles(Context& context, void* x, float* largest, int64_t rows, int64_t cols) {
  LS_CHECK_MSG(cols % 64 == 0, "{} columns", cols);
  launch_kernel(context, "packing activations", fit_rows, {static_cast<unsigned>(rows), kThreads},
                static_cast<__nv_bfloat162*>(x), largest, cols / 2);
}

}  // namespace longshore::kernels::cuda
