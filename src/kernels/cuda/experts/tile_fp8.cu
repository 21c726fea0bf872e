#include <algorithm>

#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/tile_fp8.cuh"
#include "kernels/cuda/experts/sort.h"
#include "kernels/cuda/experts/tile_fp8.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kGroup = 128;  // columns of an activation that share a scale
constexpr int kQuantThreads = 256;

struct Fp8Rows {
  uint8_t* codes;  // [rows, cols] e4m3
  float* scales;   // [rows, cols / kGroup]
};

struct Fp8Call {
  ExpertsParams p;
  Fp8Rows x;       // [tokens, hidden]
  Fp8Rows hidden;  // [routes, intermediate] in the order of the sorted routes
  SortedRoutes sorted;
  float* routed;  // [routes, hidden]
  int down_runs;
};

__device__ __forceinline__ uint8_t to_e4m3(float value) {
  return static_cast<uint8_t>(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3));
}

// A warp per group. Grid: (cols / kGroup / warps, rows).
__global__ void quantise(ConstMatrixView x, Fp8Rows to) {
  begin_kernel();
  const int64_t groups = x.cols / kGroup;
  const int64_t group =
      static_cast<int64_t>(blockIdx.x) * (kQuantThreads / kWarp) + threadIdx.x / kWarp;
  if (group >= groups) return;
  const int64_t r = blockIdx.y;
  const int lane = threadIdx.x % kWarp;
  const std::byte* row = x.data + r * x.stride * dtype_size(x.dtype);
  float values[4];
  float most = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t column = group * kGroup + lane * 4 + i;
    values[i] = round_to_bf16(load_activation(row, x.dtype, column));
    most = fmaxf(most, fabsf(values[i]));
  }
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
  }
  const float scale = most / kE4m3Max;
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes |= static_cast<uint32_t>(to_e4m3(scale > 0 ? values[i] / scale : values[i])) << (8 * i);
  }
  reinterpret_cast<uint32_t*>(to.codes + r * x.cols + group * kGroup)[lane] = codes;
  if (lane == 0) to.scales[r * groups + group] = scale;
}

// The smallest compiled number of tokens that this item fits takes it: body(memory).
template <int kTokens, typename Body>
__device__ __forceinline__ void with_memory(std::byte* shared, int count, const Body& body) {
  if constexpr (kTokens > 32) {
    if (count <= 32) return body(*reinterpret_cast<Fp8TileMemory<32>*>(shared));
  }
  if constexpr (kTokens > 64) {
    if (count <= 64) return body(*reinterpret_cast<Fp8TileMemory<64>*>(shared));
  }
  body(*reinterpret_cast<Fp8TileMemory<kTokens>*>(shared));
}
template <int kTokens>
constexpr int kMemoryBytes = std::max(sizeof(Fp8TileMemory<kTokens>),
                                      std::max(sizeof(Fp8TileMemory<std::min(kTokens, 64)>),
                                               sizeof(Fp8TileMemory<32>)));

#ifdef LS_WGMMA

// Row `row` of the tokens' table, or nothing where row < 0.
template <int kTokens>
__device__ __forceinline__ void put_token(Fp8TileMemory<kTokens>& memory, int t, int64_t row,
                                          const Fp8Rows& rows, int64_t cols) {
  memory.token_rows[t] =
      row < 0 ? nullptr : reinterpret_cast<const std::byte*>(rows.codes + row * cols);
  memory.token_scales[t] = rows.scales + max(row, int64_t{0}) * (cols / kGroup);
}

template <int kTokens>
__device__ __forceinline__ void gate_up_item(const Fp8Call& call, const ExpertItem& item,
                                             Fp8TileMemory<kTokens>& memory) {
  const ExpertsParams& p = call.p;
  const ExpertView* expert = p.experts + item.expert;
  const int64_t width = p.shape.gate.out;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileHalf;
  for (int r = threadIdx.x; r < kTileRows; r += kTileThreads) {
    const WeightView& w = r < kTileHalf ? expert->gate : expert->up;
    memory.weight_rows[r] = w.data + (first_row + r % kTileHalf) * p.x.cols;
  }
  for (int t = threadIdx.x; t < kTokens; t += kTileThreads) {
    const int64_t token = t < item.count ? call.sorted.routes[item.first + t] / p.top_k : -1;
    put_token(memory, t, token, call.x, p.x.cols);
  }
  const int blocks = static_cast<int>(p.x.cols / kTileColumns);
  for (int group = 0; group < 4; ++group) {
    const WeightView& w = group < 2 ? expert->gate : expert->up;
    const int64_t row = first_row + group % 2 * 64;
    put_scales(memory, group, 0, w.scale + row / w.block_rows * w.scale_stride, blocks);
  }
  memory.init();
  __syncthreads();
  tile_product(memory, {blocks, 1, 0}, [&](int, const float(&sums)[2][kTokens / 2]) {
    consumer_sync();  // the stages are free
    constexpr int kPitch = kTileHalf + 8;
    auto* tile = reinterpret_cast<__nv_bfloat16*>(&memory);  // [kTokens, kPitch]
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      tile[tile_token(i) * kPitch + tile_row(i)] =
          __float2bfloat16_rn(silu(sums[0][i]) * sums[1][i]);
    }
    consumer_sync();
    constexpr int kLanes = kTileHalf / 8;  // of a token's group
    for (int n = threadIdx.x; n < kTokens * kLanes; n += kTileConsumers) {
      const int t = n / kLanes;
      const int column = n % kLanes * 8;
      float values[8];
      float most = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        values[i] = __bfloat162float(tile[t * kPitch + column + i]);
        most = fmaxf(most, fabsf(values[i]));
      }
#pragma unroll
      for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
      }
      if (t >= item.count) continue;
      const float scale = most / kE4m3Max;
      uint32_t codes[2] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        codes[i / 4] |= static_cast<uint32_t>(to_e4m3(scale > 0 ? values[i] / scale : values[i]))
                        << (i % 4 * 8);
      }
      const int64_t place = item.first + t;
      *reinterpret_cast<uint2*>(call.hidden.codes + place * width + first_row + column) =
          make_uint2(codes[0], codes[1]);
      if (n % kLanes == 0) {
        call.hidden.scales[place * (width / kGroup) + first_row / kGroup] = scale;
      }
    }
  });
}

template <int kTokens>
__device__ __forceinline__ void down_item(const Fp8Call& call, const ExpertItem& item,
                                          Fp8TileMemory<kTokens>& memory) {
  const WeightView& w = call.p.experts[item.expert].down;
  const int64_t width = call.p.shape.gate.out;
  const int64_t out = call.p.x.cols;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * call.down_runs * kTileRows;
  const int runs =
      min(call.down_runs, static_cast<int>((out - first_row + kTileRows - 1) / kTileRows));
  for (int r = threadIdx.x; r < kTileRows; r += kTileThreads) {
    memory.weight_rows[r] = w.data + min(first_row + r, out - 1) * width;
  }
  for (int t = threadIdx.x; t < kTokens; t += kTileThreads) {
    put_token(memory, t, t < item.count ? item.first + t : -1, call.hidden, width);
  }
  const int blocks = static_cast<int>(width / kTileColumns);
  for (int run = 0; run < runs; ++run) {
    for (int group = 0; group < 4; ++group) {
      const int64_t row = min(first_row + run * kTileRows + group * 64, out - 1);
      put_scales(memory, group, run, w.scale + row / w.block_rows * w.scale_stride, blocks);
    }
  }
  memory.init();
  __syncthreads();
  const TileRuns steps{blocks, runs, kTileRows * width};
  tile_product(memory, steps, [&](int run, const float(&sums)[2][kTokens / 2]) {
    const int64_t row = first_row + run * kTileRows;
    const int left = static_cast<int>(min(out - row, int64_t{kTileRows}));
#pragma unroll
    for (int pair = 0; pair < kTokens / 4; ++pair) {  // values of one route, rows 8 apart
      const int i = pair / 2 * 4 + pair % 2;
      const int t = tile_token(i);
      if (t >= item.count) continue;
      const int64_t route = call.sorted.routes[item.first + t];
      float* to = call.routed + route * out + row;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int r = tile_row(i) + n / 2 * kTileHalf + n % 2 * 8;
        if (r < left) to[r] = sums[n / 2][i + n % 2 * 2];
      }
    }
  });
}

#endif  // LS_WGMMA

// A block: 128 rows of gate and of up for one item. Grid: (rows, items).
template <int kTokens>
__global__ void __launch_bounds__(kTileThreads, 1) gate_up(Fp8Call call) {
  begin_kernel();
#ifdef LS_WGMMA
  extern __shared__ __align__(1024) std::byte shared[];
  if (static_cast<int>(blockIdx.y) >= *call.sorted.item_count) return;
  const ExpertItem item = call.sorted.items[blockIdx.y];
  with_memory<kTokens>(shared, item.count, [&](auto& memory) { gate_up_item(call, item, memory); });
#else
  __trap();
#endif
}

// A block: down_runs times 256 rows of down for one item. Grid: (rows, items).
template <int kTokens>
__global__ void __launch_bounds__(kTileThreads, 1) down(Fp8Call call) {
  begin_kernel();
#ifdef LS_WGMMA
  extern __shared__ __align__(1024) std::byte shared[];
  if (static_cast<int>(blockIdx.y) >= *call.sorted.item_count) return;
  const ExpertItem item = call.sorted.items[blockIdx.y];
  with_memory<kTokens>(shared, item.count, [&](auto& memory) { down_item(call, item, memory); });
#else
  __trap();
#endif
}

// How many times 256 rows of down a block takes: several where they are short.
int down_runs(const ExpertsParams& p) {
  constexpr int64_t kLongEnough = 48;  // blocks of columns
  if (p.x.cols % kTileRows != 0) return 1;
  const int64_t blocks = p.shape.gate.out / kTileColumns;
  return static_cast<int>(std::clamp<int64_t>(kLongEnough / blocks, 1, kMostTileRuns));
}

Fp8Rows fp8_rows(Context& context, int64_t rows, int64_t cols) {
  return {context.scratch<uint8_t>(rows * cols), context.scratch<float>(rows * (cols / kGroup))};
}

template <int kTokens>
void launch(Context& context, const ExpertsParams& p) {
  constexpr int kBytes = kMemoryBytes<kTokens>;
  for (const void* kernel : {reinterpret_cast<const void*>(gate_up<kTokens>),
                             reinterpret_cast<const void*>(down<kTokens>)}) {
    context.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                  "experts");
  }
  const int64_t routes = p.x.rows * p.top_k;
  const int64_t width = p.shape.gate.out;
  Fp8Call call;
  call.p = p;
  call.x = fp8_rows(context, p.x.rows, p.x.cols);
  call.hidden = fp8_rows(context, routes, width);
  call.sorted = sort_routes(context, p, kTokens);
  call.routed = context.scratch<float>(routes * p.x.cols);
  call.down_runs = down_runs(p);
  const auto items = static_cast<unsigned>(call.sorted.item_limit);
  const auto blocks = [&](int64_t rows, int64_t per_block) {
    return dim3(static_cast<unsigned>(ceil_div(rows, per_block)), items);
  };
  launch_kernel(context, "experts", quantise,
                {dim3(static_cast<unsigned>(ceil_div(p.x.cols / kGroup, kQuantThreads / kWarp)),
                      static_cast<unsigned>(p.x.rows)),
                 kQuantThreads},
                p.x, call.x);
  launch_kernel(context, "experts", gate_up<kTokens>,
                {blocks(width, kTileHalf), kTileThreads, kBytes}, call);
  launch_kernel(context, "experts", down<kTokens>,
                {blocks(p.x.cols, call.down_runs * kTileRows), kTileThreads, kBytes}, call);
  add_routed(context, p, call.routed);
}

LS_LOAD_AT_START(quantise);

}  // namespace

int64_t fp8_tile_experts_bytes(const ExpertsParams& p, int64_t tokens, int64_t item) {
  const int64_t routes = tokens * p.top_k;
  const auto fp8 = [](int64_t rows, int64_t cols) {
    return rows * (cols + cols / kGroup * 4) + 2 * 256;
  };
  return fp8(tokens, p.x.cols) + fp8(routes, p.shape.gate.out) +
         sorted_routes_bytes(routes, p.num_experts, item) + routes * p.x.cols * 4 + 256;
}

void fp8_tile_experts(Context& context, const ExpertsParams& p, int64_t item) {
  ScratchScope scope(context);
  switch (item) {
    case 32:
      return launch<32>(context, p);
    case 64:
      return launch<64>(context, p);
    case 128:
      return launch<128>(context, p);
    default:
      LS_FAIL("items of {} tokens", item);
  }
}

}  // namespace longshore::kernels::cuda
