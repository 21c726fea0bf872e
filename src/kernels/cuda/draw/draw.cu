// A search by digits: ids are in order of their logits, so the place where a running sum of masses
// (or of ids) crosses a number is found digit by digit of the logits' bits, each time by the sums
// of all logits with the same digit. Masses are whole numbers, so that no sum depends on its order:
// the result is the same in every run.
#include "device/cuda/kernels.h"
#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/draw/draw.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

// parts [rows, gridDim.x]. Grid: (pieces, rows).
__global__ void __launch_bounds__(kThreads) search(HighestSearch s) {
  begin_kernel();
  __shared__ Place warps[kThreads / kWarp];
  const float* logits = row_of(s.p, blockIdx.y);
  Place best = 0;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
#pragma unroll 8
  for (int64_t i = first_of_thread(); i < s.p.logits.cols; i += stride)
    best = max(best, place_of(logits[i], i));
  best = warp_highest(best);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  best = warp_highest(threadIdx.x < kThreads / kWarp ? warps[threadIdx.x] : 0);
  if (threadIdx.x == 0) s.parts[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = best;
}

// A warp per row. rows: nullptr where greedy.
__global__ void __launch_bounds__(kWarp) finish(HighestSearch s, int pieces, Row* rows) {
  begin_kernel();
  Place best = 0;
  for (int i = threadIdx.x; i < pieces; i += kWarp)
    best = max(best, s.parts[int64_t{blockIdx.x} * pieces + i]);
  best = warp_highest(best);
  if (threadIdx.x != 0) return;
  const int32_t id = best == kNotFinite ? -1 : static_cast<int32_t>(~static_cast<uint32_t>(best));
  s.p.ids[blockIdx.x] = id;
  if (rows == nullptr) return;
  Row row{};
  row.draws = id >= 0 && s.p.rules[blockIdx.x].temperature != 0;
  row.highest = id < 0 ? 0 : row_of(s.p, blockIdx.x)[id];
  row.cut = ~Mass{0};
  rows[blockIdx.x] = row;
}

// Whether this block is the last of its row's: what the others wrote is then there.
__device__ bool last_of_row(Row& row) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(&row.ended, 1u) + 1 == gridDim.x;
  __syncthreads();
  if (last && threadIdx.x == 0) row.ended = 0;
  return last;
}

// The masses of all, and of those with at least min_p. Grid: (pieces, rows).
__global__ void __launch_bounds__(kThreads) add_masses(DrawParams p, Row* rows) {
  begin_kernel();
  Row& row = rows[blockIdx.y];
  if (!row.draws) return;
  const DrawRule rule = p.rules[blockIdx.y];
  const float* logits = row_of(p, blockIdx.y);
  Mass total = 0;
  Mass likely = 0;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
#pragma unroll 4
  for (int64_t i = first_of_thread(); i < p.logits.cols; i += stride) {
    const double mass = mass_of(logits[i], row.highest, rule.temperature);
    const Mass whole = whole_mass(mass);
    total += whole;
    if (mass >= rule.min_p) likely += whole;
  }
  total = warp_sum_of(total);
  likely = warp_sum_of(likely);
  if (threadIdx.x % kWarp == 0) {
    atomicAdd(&row.total, total);
    atomicAdd(&row.likely, likely);
  }
  if (last_of_row(row) && threadIdx.x == 0) row.kept = __ldcg(&row.total);
}

// What the running sum must be above, over the whole row.
__device__ Mass start_of(Stage stage, const DrawRule& rule, const Row& row) {
  if (stage == Stage::kTopK) return static_cast<Mass>(rule.top_k - 1);
  if (stage == Stage::kTopP) {
    const double reach = static_cast<double>(rule.top_p) * static_cast<double>(row.kept);
    return static_cast<Mass>(ceil(reach)) - 1;
  }
  const Mass kept = min(row.cut, min(row.kept, row.likely));
  return min(static_cast<Mass>(rule.uniform * static_cast<double>(kept)), kept - 1);
}

__device__ bool runs(Stage stage, const DrawRule& rule, const Row& row, int64_t n) {
  if (!row.draws) return false;
  if (stage == Stage::kTopK) return rule.top_k > 0 && rule.top_k < n;
  return stage == Stage::kDraw || rule.top_p < 1;
}

// The digit where the running sum, from the highest digit down, crosses row.left. One block.
template <int kLevel>
__device__ void pick(Stage stage, const DrawRule& rule, Row& row, Histogram& sums) {
  constexpr int kBins = 1 << kBits<kLevel>;
  constexpr int kOwn = kBins / kThreads;
  __shared__ Mass weights[kThreads / kWarp];
  __shared__ Mass masses[kThreads / kWarp];
  const Mass left = kLevel == 0 ? start_of(stage, rule, row) : row.left;
  const int highest_bin = kBins - 1 - static_cast<int>(threadIdx.x) * kOwn;
  const auto mass_at = [&](int bin) { return __ldcg(&sums.mass[bin]); };
  const auto weight_at = [&](int bin) {
    return stage == Stage::kTopK ? Mass{__ldcg(&sums.count[bin])} : mass_at(bin);
  };
  Mass weight = 0;
  Mass mass = 0;
  for (int i = 0; i < kOwn; ++i) {
    weight += weight_at(highest_bin - i);
    mass += mass_at(highest_bin - i);
  }
  Mass weight_before = sum_before(weight, weights);
  Mass mass_before = sum_before(mass, masses);
  const bool crosses = weight_before <= left && left < weight_before + weight;
  int found = -1;
  for (int i = 0; crosses && found < 0; ++i) {
    const int bin = highest_bin - i;
    if (left < weight_before + weight_at(bin)) {
      found = bin;
    } else {
      weight_before += weight_at(bin);
      mass_before += mass_at(bin);
    }
  }
  __syncthreads();  // all have read what is written now
  if (found >= 0) {
    row.prefix = (kLevel == 0 ? 0 : row.prefix << kBits<kLevel>) | static_cast<uint32_t>(found);
    row.left = left - weight_before;
    row.before = (kLevel == 0 ? 0 : row.before) + mass_before;
  }
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    sums.mass[bin] = 0;
    sums.count[bin] = 0;
  }
  __syncthreads();
}

// All digits are known: row.prefix is the logit's key.
__device__ void conclude(Stage stage, const DrawRule& rule, Row& row) {
  const Mass each = whole_mass(mass_of(logit_of(row.prefix), row.highest, rule.temperature));
  if (stage == Stage::kTopK) {
    row.kept = row.before + (row.left + 1) * each;
  } else if (stage == Stage::kTopP) {
    row.cut = row.before + (row.left / each + 1) * each;
  } else {
    row.left /= each;  // so many equal ones come before it
  }
}

// Adds up the logits by their next digit, of those whose digits before are row.prefix. Grid:
// (pieces, rows).
template <int kLevel>
__global__ void __launch_bounds__(kThreads)
    search_digit(DrawParams p, Stage stage, Row* rows, Histogram* histograms) {
  begin_kernel();
  constexpr int kBins = 1 << kBits<kLevel>;
  // A mass in parts, so that 32-bit sums of a block's logits cannot overflow.
  __shared__ uint32_t parts[kMassParts][kBins];
  __shared__ uint32_t counts[kBins];
  Row& row = rows[blockIdx.y];
  const DrawRule rule = p.rules[blockIdx.y];
  if (!runs(stage, rule, row, p.logits.cols)) return;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    counts[bin] = 0;
    for (int part = 0; part < kMassParts; ++part) parts[part][bin] = 0;
  }
  __syncthreads();
  const float* logits = row_of(p, blockIdx.y);
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const uint32_t prefix = row.prefix;
#pragma unroll 4
  for (int64_t i = first_of_thread(); i < p.logits.cols; i += stride) {
    const uint32_t key = key_of(logits[i]);
    if constexpr (kLevel > 0) {
      if (key >> (kShift<kLevel> + kBits<kLevel>) != prefix) continue;
    }
    const uint32_t bin = key >> kShift<kLevel> & (kBins - 1);
    const Mass mass = whole_mass(mass_of(logits[i], row.highest, rule.temperature));
    if (stage == Stage::kTopK) atomicAdd(&counts[bin], 1u);
    for (int part = 0; part < kMassParts; ++part) {
      const auto piece =
          static_cast<uint32_t>(mass >> (part * kPartBits)) & ((1u << kPartBits) - 1);
      if (piece != 0) atomicAdd(&parts[part][bin], piece);
    }
  }
  __syncthreads();
  Histogram& sums = histograms[blockIdx.y];
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    Mass mass = 0;
    for (int part = 0; part < kMassParts; ++part)
      mass += Mass{parts[part][bin]} << (part * kPartBits);
    if (mass != 0) atomicAdd(&sums.mass[bin], mass);
    if (counts[bin] != 0) atomicAdd(&sums.count[bin], counts[bin]);
  }
  if (!last_of_row(row)) return;
  pick<kLevel>(stage, rule, row, sums);
  if (kLevel == kLevels - 1 && threadIdx.x == 0) conclude(stage, rule, row);
}

// The id of the logit with key row.prefix before which row.left others have it. A block per row, a
// warp per stretch of ids.
constexpr int kFindThreads = 1024;
__global__ void __launch_bounds__(kFindThreads) find_id(DrawParams p, const Row* rows) {
  begin_kernel();
  constexpr int kWarps = kFindThreads / kWarp;
  __shared__ int counts[kWarps];
  const Row& row = rows[blockIdx.x];
  if (!row.draws) return;
  const float* logits = row_of(p, blockIdx.x);
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t each = (p.logits.cols + kFindThreads - 1) / kFindThreads * kWarp;
  const int64_t begin = warp * each;
  const int64_t end = min(begin + each, p.logits.cols);
  const auto equal = [&](int64_t i) {
    const bool same = i < end && key_of(logits[i]) == row.prefix;
    return __ballot_sync(0xffffffffu, same);
  };
  int count = 0;
#pragma unroll 4
  for (int64_t i = begin; i < begin + each; i += kWarp) count += __popc(equal(i + lane));
  if (lane == 0) counts[warp] = count;
  __syncthreads();
  auto left = static_cast<int64_t>(row.left);
  for (int w = 0; w < warp; ++w) left -= counts[w];
  if (left < 0 || left >= count) return;
  for (int64_t i = begin; i < begin + each; i += kWarp) {
    const unsigned lanes = equal(i + lane);
    const bool own = (lanes >> lane & 1) != 0 && __popc(lanes & ((1u << lane) - 1)) == left;
    if (own) p.ids[blockIdx.x] = static_cast<int32_t>(i + lane);
    left -= __popc(lanes);
    if (left < 0) return;
  }
}

// Blocks of a row: few rows go to all multiprocessors, many rows have their sums in few blocks
// each.
int64_t pieces_of(const Context& context, const DrawParams& p) {
  constexpr int64_t kWaves = 4;
  const int64_t wanted = ceil_div(kWaves * context.multiprocessors(), p.logits.rows);
  const int64_t most = ceil_div(p.logits.cols, kThreads * kPerThread);
  return std::clamp(wanted, ceil_div(p.logits.cols, kPerBlock), most);
}

LS_LOAD_AT_START(search);

}  // namespace

void draw(Context& context, const DrawParams& p) {
  validate(p);
  if (p.logits.rows == 0) return;
  LS_CHECK_MSG(p.logits.rows <= 65535, "{} rows", p.logits.rows);
  LS_CHECK_MSG(p.logits.cols <= kMostLogits, "{} logits", p.logits.cols);
  ScratchScope scope(context);
  cudaStream_t stream = context.stream();
  const int64_t pieces = pieces_of(context, p);
  const auto rows = static_cast<unsigned>(p.logits.rows);
  const dim3 grid(static_cast<unsigned>(pieces), rows);
  const HighestSearch highest{p, context.scratch<Place>(p.logits.rows * pieces)};
  launch_kernel(context, "draw", search, {grid, kThreads}, highest);
  Row* states = p.greedy ? nullptr : context.scratch<Row>(p.logits.rows);
  launch_kernel(context, "draw", finish, {rows, kWarp}, highest, static_cast<int>(pieces), states);
  if (p.greedy) return;
  auto* histograms = context.scratch<Histogram>(p.logits.rows);
  context.check(cudaMemsetAsync(histograms, 0, rows * sizeof(Histogram), stream), "draw");
  launch_kernel(context, "draw", add_masses, {grid, kThreads}, p, states);
  for (const Stage stage : {Stage::kTopK, Stage::kTopP, Stage::kDraw}) {
    launch_kernel(context, "draw", search_digit<0>, {grid, kThreads}, p, stage, states, histograms);
    launch_kernel(context, "draw", search_digit<1>, {grid, kThreads}, p, stage, states, histograms);
    launch_kernel(context, "draw", search_digit<2>, {grid, kThreads}, p, stage, states, histograms);
  }
  launch_kernel(context, "draw", find_id, {rows, kFindThreads}, p, states);
}

}  // namespace longshore::kernels::cuda
