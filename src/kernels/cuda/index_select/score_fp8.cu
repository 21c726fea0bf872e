// Index scores on Hopper's FP8 tensor cores, at head_dim 128 and 32 heads, straight from the pages.
//
// A query q becomes scale * (high + low), both FP8 E4M3: 8 bits of mantissa, as bf16 has, where one
// FP8 value has 4. A page of 64 keys is the A operand of a 64 x (32 heads x tokens) product, its
// columns the heads: relu, head weights and the sum over heads follow in registers, then the key's
// scale.
#include <algorithm>

#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/common/warpgroup.cuh"
#include "kernels/cuda/index_select/stages.h"
#include "kernels/format/e4m3.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kDim = 128;
constexpr int kHeads = 32;
constexpr int kPart = kHeads * kDim;    // bytes of a token's high or low parts
constexpr int kQueryBytes = 2 * kPart;  // of a token
constexpr int kPageKeys = kPageTokens * kDim;
constexpr int kPageBytes = kPageKeys + kPageTokens * 4;
constexpr int kStages = 4;
constexpr int kGroup = 128;  // threads of a warpgroup
constexpr int kGroups = 2;
constexpr int kThreads = kGroups * kGroup;
constexpr int kPrepareWarps = 4;

// One warp per token and head: queries [count, 2, 32, 128] as swizzled tiles, weights [count, 32]
// with the constants and the query's scale.
__global__ void prepare_fp8(ScorePass pass, uint8_t* queries, float* weights) {
  begin_kernel();
  const IndexSelectParams& p = pass.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kPrepareWarps + warp;
  if (item >= pass.count * kHeads) return;
  const int64_t row = item / kHeads;
  const int head = static_cast<int>(item % kHeads);
  const int64_t t = pass.first + row;
  const int32_t position = p.batch.positions[t];
  if (position < p.top_k && !pass.all) return;
  Row128 q;
  q.load(reinterpret_cast<const float*>(p.q.data) + t * p.q.stride + head * kDim, lane);
  q.rope(p.rope_dim, position, p.inv_freq, lane);
  q.hadamard(lane);
  const float scale = q.highest_magnitude() / kE4m3Max;
  uint32_t high = 0;
  uint32_t low = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float value = scale > 0 ? q.x[i] / scale : 0;
    const uint8_t code = e4m3_from_float(value);
    high |= uint32_t{code} << (8 * i);
    low |= uint32_t{e4m3_from_float(value - e4m3_decode(code))} << (8 * i);
  }
  uint8_t* to = queries + row * kQueryBytes +
                swizzled(static_cast<uint32_t>(head), static_cast<uint32_t>(lane) / 4) +
                lane % 4 * 4;
  *reinterpret_cast<uint32_t*>(to) = high;
  *reinterpret_cast<uint32_t*>(to + kPart) = low;
  if (lane == 0) {
    const auto* given = reinterpret_cast<const float*>(p.head_weights.data);
    weights[item] = given[t * p.head_weights.stride + head] *
                    (p.weight_scale / sqrtf(static_cast<float>(kDim))) * scale;
  }
}

// How the tokens and pages of an item are split over a block's warpgroups: either every warpgroup
// scores its own pages for the same kTokens tokens, or all share each page and score kTokens tokens
// each.
template <int kTokens, bool kSharePages>
struct Split {
  static constexpr int kBlockTokens = kSharePages ? kTokens * kGroups : kTokens;
  static constexpr int kTiles = kSharePages ? kGroups : 1;  // of queries
  static constexpr int kRings = kSharePages ? 1 : kGroups;  // of pages
  static constexpr int kTileBytes = kTokens * kQueryBytes;
  static constexpr int kSharedBytes = kTiles * kTileBytes + kRings * kStages * kPageBytes +
                                      kBlockTokens * kHeads * static_cast<int>(sizeof(float));
};

struct Work {
  ScorePass pass;
  const uint8_t* queries;
  const float* weights;
  int64_t token_groups;
  int64_t chunks;  // of pages per token group
  int64_t chunk_pages;
};

#ifdef LS_HAS_WGMMA

template <int kTokens, bool kSharePages>
struct Block {
  using S = Split<kTokens, kSharePages>;
  static constexpr int kLoaders = kThreads / S::kRings;  // threads that fill a ring

  uint32_t tiles;        // shared address of [kTiles][2][kTokens][32][128] queries
  uint32_t ring;         // of this thread's [kStages][64][128] keys
  const float* scales;   // [kStages][64]
  uint32_t scales_at;    // the same as a shared address
  const float* weights;  // [kBlockTokens][32]
  int group;
  int loader;  // this thread among those of its ring

  __device__ explicit Block(std::byte* shared) {
    group = static_cast<int>(threadIdx.x) / kGroup;
    loader = static_cast<int>(threadIdx.x) % kLoaders;
    const int own_ring = kSharePages ? 0 : group;
    std::byte* keys = shared + S::kTiles * S::kTileBytes;
    std::byte* all_scales = keys + S::kRings * kStages * kPageKeys;
    tiles = shared_address(shared);
    ring = shared_address(keys + own_ring * kStages * kPageKeys);
    scales = reinterpret_cast<const float*>(all_scales) + own_ring * kStages * kPageTokens;
    scales_at = shared_address(scales);
    weights = reinterpret_cast<const float*>(all_scales) + S::kRings * kStages * kPageTokens;
  }

  __device__ void ring_barrier() const {
    if constexpr (kSharePages) {
      __syncthreads();
    } else {
      named_barrier(1 + group, kLoaders);
    }
  }

  // Queries and weights of tokens [token, token + kBlockTokens) of the pass; those past its end
  // repeat its last.
  __device__ void load_queries(const Work& work, std::byte* shared, int64_t token) const {
    constexpr int kPieces = kQueryBytes / 16;
    for (int i = static_cast<int>(threadIdx.x); i < S::kBlockTokens * kPieces; i += kThreads) {
      const int local = i / kPieces;
      const int piece = i % kPieces;
      const int64_t from = min(token + local, work.pass.count - 1);
      const int part = piece / (kPieces / 2);
      const int at = (local / kTokens) * S::kTileBytes +
                     (part * kTokens + local % kTokens) * kPart + piece % (kPieces / 2) * 16;
      *reinterpret_cast<uint4*>(shared + at) =
          *reinterpret_cast<const uint4*>(work.queries + from * kQueryBytes + piece * 16);
    }
    auto* to = const_cast<float*>(weights);
    for (int i = static_cast<int>(threadIdx.x); i < S::kBlockTokens * kHeads; i += kThreads) {
      const int64_t from = min(token + i / kHeads, work.pass.count - 1);
      to[i] = work.weights[from * kHeads + i % kHeads];
    }
  }

  __device__ void load_page(const std::byte* page, int stage) const {
#pragma unroll
    for (int i = loader; i < kPageKeys / 16; i += kLoaders) {
      cp_async_16(ring + stage * kPageKeys + swizzled(i / 8, i % 8), page + i * 16);
    }
    if (loader < kPageTokens / 4) {
      cp_async_16(scales_at + stage * kPageTokens * 4 + loader * 16,
                  page + kPageKeys + loader * 16);
    }
  }

  // Scores of one page for the tokens [run_begin, run_end) of the block.
  __device__ void score_page(int stage, int run_begin, int run_end, float* scores,
                             int64_t width) const {
    float products[kTokens * kHeads / 2];
    const int tile = kSharePages ? group : 0;
    const uint64_t keys = tile_descriptor(ring + stage * kPageKeys, 0, 1024);
    const uint64_t high = tile_descriptor(tiles + tile * S::kTileBytes, 0, 1024);
    const uint64_t low = tile_descriptor(tiles + tile * S::kTileBytes + kTokens * kPart, 0, 1024);
#pragma unroll
    for (float& product : products) product = 0;
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < kDim; k += 32) {
      wgmma_fp8(products, advanced(keys, k), advanced(high, k), k > 0);
    }
#pragma unroll
    for (int k = 0; k < kDim; k += 32) {
      wgmma_fp8(products, advanced(keys, k), advanced(low, k), true);
    }
    wgmma_commit();
    wgmma_wait<0>(products);

    const int thread = static_cast<int>(threadIdx.x) % kGroup;
    const int quarter = thread % 4;
    const int row = thread / kWarp * 16 + thread % kWarp / 4;
    const float scale = scales[stage * kPageTokens + row];
    const float scale_below = scales[stage * kPageTokens + row + 8];
    const int first = kSharePages ? group * kTokens : 0;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      float sum = 0;
      float below = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 w = *reinterpret_cast<const float2*>(weights + (first + token) * kHeads +
                                                          8 * j + 2 * quarter);
        const float* d = products + (token * 4 + j) * 4;
        sum = fmaf(w.x, fmaxf(d[0], 0.0f), sum);
        sum = fmaf(w.y, fmaxf(d[1], 0.0f), sum);
        below = fmaf(w.x, fmaxf(d[2], 0.0f), below);
        below = fmaf(w.y, fmaxf(d[3], 0.0f), below);
      }
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        sum += __shfl_xor_sync(kWholeWarp, sum, lanes);
        below += __shfl_xor_sync(kWholeWarp, below, lanes);
      }
      const int local = first + token;
      if (quarter == token % 4 && local >= run_begin && local < run_end) {
        scores[local * width + row] = sum * scale;
        scores[local * width + row + 8] = below * scale_below;
      }
    }
  }

  // Pages [begin, end) of one sequence.
  __device__ void score_pages(const Work& work, const int32_t* table, int begin, int end,
                              int64_t token, int run_begin, int run_end) const {
    constexpr int kStep = S::kRings;
    const ScorePass& pass = work.pass;
    const int first = begin + (kSharePages ? 0 : group);
    const std::byte* data = pass.p.cache.data;
    const auto place = [&](int number) { return number < end ? table[number] : 0; };
    ring_barrier();  // the ring's last page has been read
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      const int number = first + s * kStep;
      if (number < end) load_page(data + static_cast<int64_t>(place(number)) * kPageBytes, s);
      cp_async_commit();
    }
    int ahead = first + (kStages - 1) * kStep;
    int32_t next = place(ahead);
    float* scores = pass.scores + token * pass.width;
    int stage = 0;
    for (int number = first; number < end; number += kStep) {
      cp_async_wait<kStages - 2>();
      fence_for_wgmma();
      ring_barrier();
      if (ahead < end) {
        load_page(data + static_cast<int64_t>(next) * kPageBytes, (stage + kStages - 1) % kStages);
      }
      cp_async_commit();
      ahead += kStep;
      next = place(ahead);
      score_page(stage, run_begin, run_end, scores + static_cast<int64_t>(number) * kPageTokens,
                 pass.width);
      stage = (stage + 1) % kStages;
    }
    cp_async_wait<0>();
  }
};

#endif  // LS_HAS_WGMMA

// An item is a group of consecutive tokens and a chunk of page numbers. Which sequences the tokens
// belong to and how long these are is read here: items past a sequence's end cost a few cycles.
template <int kTokens, bool kSharePages>
__global__ void __launch_bounds__(kThreads, 2) score_fp8_kernel(const Work work) {
  begin_kernel();
#ifdef LS_HAS_WGMMA
  extern __shared__ __align__(1024) std::byte shared[];
  using S = Split<kTokens, kSharePages>;
  const Block<kTokens, kSharePages> block(shared);
  const ScorePass& pass = work.pass;
  const BatchView& batch = pass.p.batch;
  for (int64_t item = blockIdx.x; item < work.token_groups * work.chunks; item += gridDim.x) {
    const int64_t token = item / work.chunks * S::kBlockTokens;
    const int begin = static_cast<int>(item % work.chunks * work.chunk_pages);
    const int tokens = static_cast<int>(min(int64_t{S::kBlockTokens}, pass.count - token));
    bool loaded = false;
    for (int run = 0; run < tokens;) {
      const int64_t t = pass.first + token;
      const int32_t sequence = batch.sequence_of[t + run];
      int32_t last = -1;
      int next = run;
      for (; next < tokens && batch.sequence_of[t + next] == sequence; ++next) {
        const int32_t position = batch.positions[t + next];
        if (pass.all || position >= pass.p.top_k) last = max(last, position);
      }
      const int pages = last / kPageTokens + 1;
      if (last >= 0 && pages > begin) {
        if (!loaded) {
          __syncthreads();  // the last item's queries have been read
          block.load_queries(work, shared, token);
          fence_for_wgmma();
          __syncthreads();
          loaded = true;
        }
        block.score_pages(work, batch.page_table + sequence * batch.page_table_width, begin,
                          min(pages, begin + static_cast<int>(work.chunk_pages)), token, run, next);
      }
      run = next;
    }
  }
#endif
}

template <int kTokens, bool kSharePages>
void launch(Context& context, Work work) {
  using S = Split<kTokens, kSharePages>;
  const ScorePass& pass = work.pass;
  constexpr int kBlocks = 2;  // per multiprocessor
  constexpr int64_t kMostPages = 64;
  const int64_t slots = int64_t{kBlocks} * context.multiprocessors();
  work.token_groups = ceil_div(pass.count, S::kBlockTokens);
  // Small enough that a few long sequences fill the device, large enough to hide the start.
  work.chunk_pages = std::clamp(ceil_div(work.token_groups * pass.p.batch.page_table_width, slots),
                                int64_t{2}, kMostPages);
  work.chunks = ceil_div(pass.p.batch.page_table_width, work.chunk_pages);
  const auto kernel = score_fp8_kernel<kTokens, kSharePages>;
  context.check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes),
      "index_select: scores");
  const auto blocks = static_cast<unsigned>(std::min(work.token_groups * work.chunks, slots));
  launch_kernel(context, "index_select: scores", kernel, {blocks, kThreads, S::kSharedBytes}, work);
}

LS_LOAD_AT_START(prepare_fp8);

}  // namespace

bool takes_score_fp8(const Context& context, const IndexSelectParams& p) {
  return context.compute_capability() == 90 && p.cache.head_dim == kDim && p.heads == kHeads &&
         aligned(p.cache.data, 16);
}

int64_t score_fp8_bytes(int64_t count) {
  return count * (kQueryBytes + kHeads * 4) + 512;
}

void score_fp8(Context& context, const ScorePass& pass) {
  const ScratchScope scope(context);
  Work work{};
  work.pass = pass;
  auto* queries = context.scratch<uint8_t>(pass.count * kQueryBytes);
  auto* weights = context.scratch<float>(pass.count * kHeads);
  work.queries = queries;
  work.weights = weights;
  const auto blocks = static_cast<unsigned>(ceil_div(pass.count * kHeads, kPrepareWarps));
  launch_kernel(context, "index_select: queries", prepare_fp8, {blocks, kPrepareWarps * kWarp},
                pass, queries, weights);
  const BatchView& batch = pass.p.batch;
  const int64_t tokens_each = batch.tokens / std::max<int64_t>(batch.sequences, 1);
  if (tokens_each < 2) {
    launch<1, false>(context, work);
  } else if (tokens_each < 4) {
    launch<2, false>(context, work);
  } else if (tokens_each < 8) {
    launch<4, false>(context, work);
  } else {
    launch<4, true>(context, work);
  }
}

}  // namespace longshore::kernels::cuda
