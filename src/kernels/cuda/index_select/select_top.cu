// Radix select over the scores' ordered bits, 11 + 11 + 10 bits from the top. A row belongs to a
// cluster of blocks, each of which keeps its part of the row in shared memory: the scores are read
// once. Equal scores go to lower positions and the output ascends, so the choice is a function of
// the scores alone.
#include <cooperative_groups.h>

#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/index_select/stages.h"

namespace longshore::kernels::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigits = 3;
constexpr int kBins = 2048;
constexpr int kCopies = 4;
constexpr int kGroupBins = kWarp;
constexpr int kGroups = kBins / kGroupBins;
constexpr int kMostRanks = 16;  // blocks of a cluster; 8 is what every device promises

// Unsigned integers in the order of the floats; -0 counts as +0.
__device__ __forceinline__ uint32_t ordered_bits(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

struct alignas(16) Shared {
  union {
    // Scores share few exponents, so the first digit has few bins in use: its histogram has copies
    // in different banks, chosen by lane. They are added up before the other digits are counted.
    int32_t first_digit[kBins][kCopies];
    int32_t later_digits[kDigits - 1][kBins];
  };
  int32_t first_histogram[kBins];
  int32_t coarse[kDigits][kGroups];          // this block's sums of kGroupBins bins
  int32_t all_coarse[kMostRanks][kGroups];   // every block's, of the digit at hand
  int32_t all_fine[kMostRanks][kGroupBins];  // every block's bins of one group
  unsigned long long warp_sums[kWarps];
  // What find_digit finds.
  int32_t digit;
  int32_t above_digit;   // scores of the row in higher bins
  int32_t in_digit;      // and in the bin
  int32_t above_before;  // of the blocks before this one: in higher bins
  int32_t equal_before;  // and in the bin

  __device__ int32_t* histogram(int d) { return d == 0 ? first_histogram : later_digits[d - 1]; }
};

// The blocks that share a row.
struct Cluster {
  __device__ static int ranks() {
#if __CUDA_ARCH__ >= 900
    return static_cast<int>(cg::this_cluster().num_blocks());
#else
    return 1;
#endif
  }
  __device__ static int rank() {
#if __CUDA_ARCH__ >= 900
    return static_cast<int>(cg::this_cluster().block_rank());
#else
    return 0;
#endif
  }
  __device__ static void sync() {
    arrive();
    wait();
  }
  // Between the two this block waits for nobody.
  __device__ static void arrive() {
#if __CUDA_ARCH__ >= 900
    cg::this_cluster().barrier_arrive();
#endif
  }
  __device__ static void wait() {
#if __CUDA_ARCH__ >= 900
    cg::this_cluster().barrier_wait();
#else
    __syncthreads();
#endif
  }
  template <typename T>
  __device__ static T* of(T* shared, int rank) {
#if __CUDA_ARCH__ >= 900
    return cg::this_cluster().map_shared_rank(shared, rank);
#else
    return shared;
#endif
  }
};

// The sum of `value` over the threads before this one; `total` over all of the block. sums [kWarps]
// is free again after the next barrier.
template <typename T>
__device__ T exclusive_sum(T value, T* sums, T& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  T sum = value;
  for (int width = 1; width < kWarp; width *= 2) {
    const T other = __shfl_up_sync(kWholeWarp, sum, width);
    if (lane >= width) sum += other;
  }
  if (lane == kWarp - 1) sums[warp] = sum;
  __syncthreads();
  T warps = lane < kWarps ? sums[lane] : T{0};
  for (int width = 1; width < kWarps; width *= 2) {
    const T other = __shfl_up_sync(kWholeWarp, warps, width);
    if (lane >= width) warps += other;
  }
  total = __shfl_sync(kWholeWarp, warps, kWarps - 1);
  const T before = __shfl_sync(kWholeWarp, warps, warp - 1 < 0 ? 0 : warp - 1);
  return sum - value + (warp > 0 ? before : T{0});
}

// Which scores are chosen: those whose known bits lie above the threshold's, and the first
// `equal_left` of those that equal it.
struct Threshold {
  uint32_t known = 0;
  uint32_t bits = 0;
  int32_t equal_left = 0;
};

// This block's part of a row as ordered bits.
template <bool kInShared>
struct Part {
  const float4* scores;  // in device memory; what lies behind the last one was never written
  uint4* kept;           // in shared memory
  int count;

  __device__ static uint4 ordered(const float4& four) {
    return {ordered_bits(four.x), ordered_bits(four.y), ordered_bits(four.z), ordered_bits(four.w)};
  }
  __device__ uint32_t operator[](int i) const {
    if constexpr (kInShared) return reinterpret_cast<const uint32_t*>(kept)[i];
    return ordered_bits(reinterpret_cast<const float*>(scores)[i]);
  }

  // Calls count_one(bits) for every score; the first time the scores come from device memory,
  // several loads in flight.
  template <typename Count>
  __device__ void for_each(bool first_time, Count count_one) const {
    constexpr int kLoads = 4;
    const int fours = count / 4;
    for (int first = static_cast<int>(threadIdx.x); first < fours; first += kLoads * kThreads) {
      uint4 bits[kLoads];
      if (first_time || !kInShared) {
        float4 loaded[kLoads];
#pragma unroll
        for (int l = 0; l < kLoads; ++l) {
          const int i = first + l * kThreads;
          if (i < fours) loaded[l] = __ldcs(scores + i);
        }
#pragma unroll
        for (int l = 0; l < kLoads; ++l) {
          const int i = first + l * kThreads;
          if (i >= fours) continue;
          bits[l] = ordered(loaded[l]);
          if constexpr (kInShared) kept[i] = bits[l];
        }
      } else {
#pragma unroll
        for (int l = 0; l < kLoads; ++l) {
          const int i = first + l * kThreads;
          if (i < fours) bits[l] = kept[i];
        }
      }
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        if (first + l * kThreads >= fours) continue;
        count_one(bits[l].x);
        count_one(bits[l].y);
        count_one(bits[l].z);
        count_one(bits[l].w);
      }
    }
    const int rest = fours * 4 + static_cast<int>(threadIdx.x);
    if (rest >= count) return;
    if constexpr (kInShared) {
      auto* bits = reinterpret_cast<uint32_t*>(kept);
      if (first_time) bits[rest] = ordered_bits(reinterpret_cast<const float*>(scores)[rest]);
    }
    count_one((*this)[rest]);
  }
};

// By the whole block, a multiple of 16 bytes.
__device__ void clear(void* memory, int bytes) {
  for (int i = static_cast<int>(threadIdx.x); i < bytes / 16; i += kThreads) {
    static_cast<int4*>(memory)[i] = {};
  }
}

// Sums of this block's histogram over groups of bins, so that blocks read little of each other's.
__device__ void sum_groups(const int32_t* histogram, int32_t* coarse) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int group = static_cast<int>(threadIdx.x) / kWarp; group < kGroups; group += kWarps) {
    int32_t sum = histogram[group * kGroupBins + lane];
    for (int width = kWarp / 2; width > 0; width /= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, width);
    }
    if (lane == 0) coarse[group] = sum;
  }
}

// One value of each block of the cluster, added up: over all, and over those before this one.
struct Tally {
  int32_t all = 0;
  int32_t before = 0;

  __device__ Tally(const int32_t* value, int stride, int rank, int ranks) {
#pragma unroll
    for (int r = 0; r < kMostRanks; ++r) {
      if (r >= ranks) break;
      all += value[r * stride];
      before += r < rank ? value[r * stride] : 0;
    }
  }
};

// Sums over the lanes below this one.
__device__ __forceinline__ int32_t lanes_below(int32_t value, int lane) {
  int32_t sum = value;
  for (int width = 1; width < kWarp; width *= 2) {
    const int32_t other = __shfl_up_sync(kWholeWarp, sum, width);
    if (lane >= width) sum += other;
  }
  return sum - value;
}

__device__ __forceinline__ int32_t sum_lanes(int32_t value) {
  for (int width = kWarp / 2; width > 0; width /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, width);
  }
  return value;
}

// The bin that holds the wanted-th highest of the cluster's histograms: first its group of bins,
// then the bin. A warp fetches another block's numbers, so that they travel at once; lane 0 has the
// highest bins. Barriers before and after are the caller's.
__device__ void find_digit(Shared& shared, int d, int rank, int ranks, int32_t wanted) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  static_assert(kGroups == 2 * kWarp && kGroupBins == kWarp);
  for (int r = warp; r < ranks; r += kWarps) {
    reinterpret_cast<int2*>(shared.all_coarse[r])[lane] =
        reinterpret_cast<const int2*>(Cluster::of(shared.coarse[d], r))[lane];
  }
  __syncthreads();
  const int upper = kGroups - 1 - 2 * lane;
  const Tally upper_tally(&shared.all_coarse[0][upper], kGroups, rank, ranks);
  const Tally lower_tally(&shared.all_coarse[0][upper - 1], kGroups, rank, ranks);
  const int32_t above = lanes_below(upper_tally.all + lower_tally.all, lane);
  const bool in_upper = above < wanted && wanted <= above + upper_tally.all;
  const bool in_lower =
      above + upper_tally.all < wanted && wanted <= above + upper_tally.all + lower_tally.all;
  const int finder = __ffs(static_cast<int>(__ballot_sync(kWholeWarp, in_upper || in_lower))) - 1;
  const int group = __shfl_sync(kWholeWarp, in_upper ? upper : upper - 1, finder);
  const int32_t above_group =
      __shfl_sync(kWholeWarp, in_upper ? above : above + upper_tally.all, finder);
  for (int r = warp; r < ranks; r += kWarps) {
    shared.all_fine[r][lane] = Cluster::of(shared.histogram(d), r)[group * kGroupBins + lane];
  }
  __syncthreads();
  if (warp > 0) return;

  const int in_group = kGroupBins - 1 - lane;
  const Tally tally(&shared.all_fine[0][in_group], kGroupBins, rank, ranks);
  const int32_t above_bin = above_group + lanes_below(tally.all, lane);
  const bool found = above_bin < wanted && wanted <= above_bin + tally.all;
  int32_t above_before = above_bin + tally.all < wanted ? tally.before : 0;
  if (upper > group) above_before += upper_tally.before;
  if (upper - 1 > group) above_before += lower_tally.before;
  above_before = sum_lanes(above_before);
  if (found) {
    shared.digit = group * kGroupBins + in_group;
    shared.above_digit = above_bin;
    shared.in_digit = tally.all;
    shared.above_before += above_before;
    shared.equal_before = tally.before;
  }
}

template <bool kInShared>
__device__ Threshold find_threshold(const Part<kInShared>& part, Shared& shared, int rank,
                                    int ranks, int32_t top_k) {
  Threshold threshold;
  threshold.equal_left = top_k;
  constexpr int kShift[kDigits] = {21, 10, 0};
#pragma unroll
  for (int d = 0; d < kDigits; ++d) {
    const uint32_t mask = d == kDigits - 1 ? 1023u : 2047u;
    if (d == 0) {
      const int copy = static_cast<int>(threadIdx.x) % kCopies;
      part.for_each(
          true, [&](uint32_t bits) { atomicAdd(&shared.first_digit[bits >> kShift[0]][copy], 1); });
      __syncthreads();
      for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
        const int4 copies = *reinterpret_cast<const int4*>(shared.first_digit[bin]);
        shared.first_histogram[bin] = copies.x + copies.y + copies.z + copies.w;
      }
      __syncthreads();
      clear(shared.later_digits, sizeof(shared.later_digits));
    } else {
      part.for_each(false, [&](uint32_t bits) {
        if ((bits & threshold.known) == threshold.bits) {
          atomicAdd(&shared.histogram(d)[(bits >> kShift[d]) & mask], 1);
        }
      });
    }
    __syncthreads();
    sum_groups(shared.histogram(d), shared.coarse[d]);
    Cluster::sync();
    find_digit(shared, d, rank, ranks, threshold.equal_left);
    __syncthreads();
    threshold.known |= mask << kShift[d];
    threshold.bits |= static_cast<uint32_t>(shared.digit) << kShift[d];
    threshold.equal_left -= shared.above_digit;
    if (shared.in_digit == threshold.equal_left) break;  // all that share these bits are chosen
  }
  return threshold;
}

// Writes the chosen positions of this block's part, which starts at position `begin`. A thread
// takes a word of 32 scores' bits, which its warp makes by votes.
template <bool kInShared>
__device__ void write_chosen(const Part<kInShared>& part, Shared& shared,
                             const Threshold& threshold, int32_t begin, int32_t* selected) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int32_t above = shared.above_before;
  int32_t equal = shared.equal_before;
  const unsigned lower = (1u << lane) - 1;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int first = 0; first < part.count; first += kThreads * kWarp) {
    const int words = min((part.count - first + kWarp - 1) / kWarp, kThreads);
    const int each = (words + kWarps - 1) / kWarps;
    unsigned above_word = 0;
    unsigned equal_word = 0;
#pragma unroll 4
    for (int word = 0; word < each; ++word) {
      const int i = first + (warp * each + word) * kWarp + lane;
      const uint32_t bits = i < part.count ? part[i] & threshold.known : 0;
      const unsigned is_above = __ballot_sync(kWholeWarp, i < part.count && bits > threshold.bits);
      const unsigned is_equal = __ballot_sync(kWholeWarp, i < part.count && bits == threshold.bits);
      if (lane == word) {
        above_word = is_above;
        equal_word = is_equal;
      }
    }
    using Pair = unsigned long long;  // scores above and, in the upper half, equal
    Pair total = 0;
    const Pair before = exclusive_sum(
        static_cast<Pair>(__popc(above_word)) | static_cast<Pair>(__popc(equal_word)) << 32,
        shared.warp_sums, total);
    const int32_t above_before = above + static_cast<int32_t>(before);
    const int32_t equal_before = equal + static_cast<int32_t>(before >> 32);
    for (int word = 0; word < each; ++word) {
      const unsigned is_above = __shfl_sync(kWholeWarp, above_word, word);
      const unsigned is_equal = __shfl_sync(kWholeWarp, equal_word, word);
      if ((is_above | is_equal) == 0) continue;
      const int32_t above_lane =
          __shfl_sync(kWholeWarp, above_before, word) + __popc(is_above & lower);
      const int32_t equal_lane =
          __shfl_sync(kWholeWarp, equal_before, word) + __popc(is_equal & lower);
      if ((is_above >> lane & 1u) != 0 ||
          ((is_equal >> lane & 1u) != 0 && equal_lane < threshold.equal_left)) {
        selected[above_lane + min(equal_lane, threshold.equal_left)] =
            begin + first + (warp * each + word) * kWarp + lane;
      }
    }
    above += static_cast<int32_t>(total);
    equal += static_cast<int32_t>(total >> 32);
    __syncthreads();
  }
}

template <bool kInShared>
__global__ void __launch_bounds__(kThreads) select_top_kernel(ScorePass pass) {
  begin_kernel();
  extern __shared__ uint4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  uint4* kept = memory + sizeof(Shared) / sizeof(uint4);
  const IndexSelectParams& p = pass.p;
  const int ranks = Cluster::ranks();
  const int rank = Cluster::rank();
  const int64_t row = static_cast<int64_t>(blockIdx.x) / ranks;
  const int64_t t = pass.first + row;
  const int32_t visible = p.batch.positions[t] + 1;
  const auto top_k = static_cast<int32_t>(p.top_k);
  int32_t* selected = p.selected + t * p.top_k;
  if (rank == 0 && threadIdx.x == 0) p.counts[t] = min(visible, top_k);
  if (visible <= top_k) {
    for (int i = rank * kThreads + static_cast<int>(threadIdx.x); i < top_k;
         i += ranks * kThreads) {
      selected[i] = i < visible ? i : -1;
    }
    return;
  }
  const int32_t each = (visible + ranks * 4 - 1) / (ranks * 4) * 4;
  const int32_t begin = min(rank * each, visible);
  const Part<kInShared> part{
      reinterpret_cast<const float4*>(pass.scores + row * pass.width + begin), kept,
      min(each, visible - begin)};
  if (threadIdx.x == 0) shared.above_before = 0;
  clear(shared.first_digit, sizeof(shared.first_digit));
  __syncthreads();
  const Threshold threshold = find_threshold(part, shared, rank, ranks, top_k);
  Cluster::arrive();  // nobody leaves while another reads its shared memory
  write_chosen(part, shared, threshold, begin, selected);
  Cluster::wait();
}

template <bool kInShared>
void launch(Context& context, const ScorePass& pass, int ranks, size_t shared_bytes) {
  const auto kernel = select_top_kernel<kInShared>;
  context.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared_bytes)),
                "index_select: top");
  context.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                "index_select: top");
  launch_kernel(context, "index_select: top", kernel,
                {static_cast<unsigned>(pass.count * ranks), kThreads, shared_bytes,
                 static_cast<unsigned>(ranks)},
                pass);
}

LS_LOAD_AT_START(select_top_kernel<true>);

}  // namespace

void select_top(Context& context, const ScorePass& pass) {
  constexpr int64_t kFewScores = 4096;    // of a block: more blocks would only wait for each other
  constexpr int64_t kManyScores = 16384;  // of a block, so that two blocks fit a multiprocessor
  int ranks = 1;
  while (context.compute_capability() == 90 && ranks < kMostRanks) {
    const int64_t each = pass.width / ranks;
    const bool idle = pass.count * ranks * 2 <= context.multiprocessors();
    if (each <= kFewScores || (each <= kManyScores && !idle)) break;
    ranks *= 2;
  }
  const int64_t most = (pass.width + ranks * 4 - 1) / (ranks * 4) * 4;
  const auto fixed = static_cast<int64_t>(sizeof(Shared));
  const int64_t kept = most * static_cast<int64_t>(sizeof(uint32_t));
  if (fixed + kept <= context.shared_bytes_per_block()) {
    launch<true>(context, pass, ranks, static_cast<size_t>(fixed + kept));
  } else {
    launch<false>(context, pass, ranks, static_cast<size_t>(fixed));
  }
}

}  // namespace longshore::kernels::cuda
