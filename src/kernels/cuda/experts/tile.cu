#include <algorithm>

#include "device/cuda/kernels.h"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/pack.h"
#include "kernels/cuda/common/tile.cuh"
#include "kernels/cuda/experts/sort.h"
#include "kernels/cuda/experts/tile.h"

namespace longshore::kernels::cuda {
namespace {

// What gate_up and down know of their call.
struct TileCall {
  ExpertsParams p;
  TileTokens tokens;
  SortedRoutes sorted;
  __nv_bfloat16* hidden;  // [routes, intermediate] in the order of the sorted routes and of
                          // tile_column; for down fp16
  float* largest;         // [routes] of hidden's magnitudes, zeros before gate_up; for down factors
  float* routed;          // [routes, hidden]
  int down_runs;
};

// The smallest compiled number of tokens that this item fits takes it: body(memory).
template <int kTokens, typename Body>
__device__ __forceinline__ void with_memory(std::byte* shared, int count, const Body& body) {
  if constexpr (kTokens > 32) {
    if (count <= 32) return body(*reinterpret_cast<TileMemory<32>*>(shared));
  }
  if constexpr (kTokens > 64) {
    if (count <= 64) return body(*reinterpret_cast<TileMemory<64>*>(shared));
  }
  body(*reinterpret_cast<TileMemory<kTokens>*>(shared));
}
template <int kTokens>
constexpr int kMemoryBytes = std::max(sizeof(TileMemory<kTokens>),
                                      std::max(sizeof(TileMemory<std::min(kTokens, 64)>),
                                               sizeof(TileMemory<32>)));

#ifdef LS_WGMMA

template <int kTokens>
__device__ __forceinline__ void gate_up_item(const TileCall& call, const ExpertItem& item,
                                             TileMemory<kTokens>& memory) {
  const ExpertsParams& p = call.p;
  const ExpertView* expert = p.experts + item.expert;
  const int64_t width = p.shape.gate.out;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileHalf;
  for (int r = threadIdx.x; r < kTileRows; r += kTileThreads) {
    const WeightView& w = r < kTileHalf ? expert->gate : expert->up;
    memory.weight_rows[r] = w.data + min(first_row + r % kTileHalf, width - 1) * p.x.cols;
  }
  for (int t = threadIdx.x; t < kTokens; t += kTileThreads) {
    const int64_t token = t < item.count ? call.sorted.routes[item.first + t] / p.top_k : -1;
    memory.token_rows[t] =
        token < 0 ? nullptr : reinterpret_cast<const std::byte*>(call.tokens.x + token * p.x.cols);
    memory.factors[t] = token < 0 ? 0.0f : call.tokens.factor[token];
  }
  const int blocks = static_cast<int>(p.x.cols / kTileColumns);
  for (int group = 0; group < 4; ++group) {
    const WeightView& w = group < 2 ? expert->gate : expert->up;
    const int64_t row = min(first_row + group % 2 * 64, width - 1);
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
      const float factor = memory.factors[tile_token(i)];
      tile[tile_token(i) * kPitch + tile_column(tile_row(i))] =
          __float2bfloat16_rn(silu(sums[0][i] * factor) * (sums[1][i] * factor));
    }
    consumer_sync();
    constexpr int kChunks = kTileHalf / 8;  // of a token, to the lanes of half a warp
    for (int n = threadIdx.x; n < kTokens * kChunks; n += kTileConsumers) {
      const int t = n / kChunks;
      const int64_t column = first_row + n % kChunks * 8;
      const uint4 values = *reinterpret_cast<const uint4*>(tile + t * kPitch + n % kChunks * 8);
      // Magnitudes of bf16 are in the order of their bits; a NaN is above all.
      uint32_t most = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        most = max(most, max(word(values, i) & 0x7fffu, word(values, i) >> 16 & 0x7fffu));
      }
#pragma unroll
      for (int lanes = kChunks / 2; lanes > 0; lanes /= 2) {
        most = max(most, __shfl_xor_sync(0xffffffffu, most, lanes));
      }
      if (t >= item.count || column >= width) continue;
      *reinterpret_cast<uint4*>(call.hidden + (item.first + t) * width + column) = values;
      if (n % kChunks == 0) {
        atomicMax(reinterpret_cast<uint32_t*>(call.largest + item.first + t), most << 16);
      }
    }
  });
}

template <int kTokens>
__device__ __forceinline__ void down_item(const TileCall& call, const ExpertItem& item,
                                          TileMemory<kTokens>& memory) {
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
    const __nv_bfloat16* row = call.hidden + (item.first + t) * width;
    memory.token_rows[t] = t < item.count ? reinterpret_cast<const std::byte*>(row) : nullptr;
    memory.factors[t] = t < item.count ? call.largest[item.first + t] : 0.0f;
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
      const float factor = memory.factors[t];
      const int64_t route = call.sorted.routes[item.first + t];
      float* to = call.routed + route * out + row;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int r = tile_row(i) + n / 2 * kTileHalf + n % 2 * 8;
        if (r < left) to[r] = sums[n / 2][i + n % 2 * 2] * factor;
      }
    }
  });
}

#endif  // LS_WGMMA

// A block: 128 rows of gate and of up for one item. Grid: (rows, items).
template <int kTokens>
__global__ void __launch_bounds__(kTileThreads, 1) gate_up(TileCall call) {
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
__global__ void __launch_bounds__(kTileThreads, 1) down(TileCall call) {
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
  TileCall call;
  call.p = p;
  call.tokens = packed_for_tiles(context, p.x);
  call.sorted = sort_routes(context, p, kTokens);
  call.hidden = context.scratch<__nv_bfloat16>(routes * width);
  call.largest = context.scratch<float>(routes);
  call.routed = context.scratch<float>(routes * p.x.cols);
  call.down_runs = down_runs(p);
  const auto items = static_cast<unsigned>(call.sorted.item_limit);
  const auto blocks = [&](int64_t rows, int64_t per_block) {
    return dim3(static_cast<unsigned>(ceil_div(rows, per_block)), items);
  };
  context.check(cudaMemsetAsync(call.largest, 0, static_cast<size_t>(routes) * 4, context.stream()),
                "experts");
  launch_kernel(context, "experts", gate_up<kTokens>,
                {blocks(width, kTileHalf), kTileThreads, kBytes}, call);
  fit_for_tiles(context, call.hidden, call.largest, routes, width);
  launch_kernel(context, "experts", down<kTokens>,
                {blocks(p.x.cols, call.down_runs * kTileRows), kTileThreads, kBytes}, call);
  add_routed(context, p, call.routed);
}

bool tiles(const WeightView& w) {
  return w.dtype == DType::kF8E4M3 && w.in % kTileColumns == 0 &&
         w.in <= kMostTileBlocks * kTileColumns && w.block_cols == kTileColumns &&
         w.block_rows % 64 == 0;
}

LS_LOAD_AT_START(gate_up<32>);

}  // namespace

bool can_tile(const Context& context, const ExpertsParams& p) {
  return context.compute_capability() == 90 && !p.mixed && p.num_experts <= kMostExperts &&
         tiles(p.shape.gate) && tiles(p.shape.up) && tiles(p.shape.down);
}

int64_t tile_experts_bytes(const ExpertsParams& p, int64_t tokens, int64_t item) {
  const int64_t routes = tokens * p.top_k;
  return packed_bytes(tokens, p.x.cols) + sorted_routes_bytes(routes, p.num_experts, item) +
         routes * (p.shape.gate.out * 2 + 4 + p.x.cols * 4) + 3 * 256;
}

void tile_experts(Context& context, const ExpertsParams& p, int64_t item) {
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
