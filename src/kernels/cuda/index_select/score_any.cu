#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/index_select/stages.h"
#include "kernels/format/e4m3.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// q [heads, head_dim] rotated and rounded to bf16, weights [heads] with the constants; one warp per
// token and head.
__global__ void prepare_any(ScorePass pass, float* queries, float* weights) {
  begin_kernel();
  extern __shared__ float rows[];  // [kWarps, head_dim]
  const IndexSelectParams& p = pass.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (item >= pass.count * p.heads) return;
  const int n = static_cast<int>(p.cache.head_dim);
  const int64_t t = pass.first + item / p.heads;
  const int64_t head = item % p.heads;
  float* q = rows + warp * n;
  const auto* from = reinterpret_cast<const float*>(p.q.data) + t * p.q.stride + head * n;
  for (int i = lane; i < n; i += kWarp) q[i] = from[i];
  rope_row(q, p.rope_dim, p.batch.positions[t], p.inv_freq, lane);
  hadamard_row(q, n, lane);
  for (int i = lane; i < n; i += kWarp) {
    queries[item * n + i] = round_to_bf16(q[i]);
  }
  if (lane == 0) {
    const auto* given = reinterpret_cast<const float*>(p.head_weights.data);
    weights[item] =
        given[t * p.head_weights.stride + head] * (p.weight_scale / sqrtf(static_cast<float>(n)));
  }
}

// One block per page and token, one warp per key at a time.
__global__ void score_any_kernel(ScorePass pass, const float* queries, const float* weights) {
  begin_kernel();
  const IndexSelectParams& p = pass.p;
  const int64_t row = blockIdx.y;
  const int64_t t = pass.first + row;
  const int32_t position = p.batch.positions[t];
  if (position < p.top_k && !pass.all) return;
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kPageTokens;
  if (first > position) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int n = static_cast<int>(p.cache.head_dim);
  const int64_t page = page_of(p.batch, p.batch.sequence_of[t], first);
  const std::byte* data = p.cache.data + page * kPageTokens * (n + 4);
  const auto* scales = reinterpret_cast<const float*>(data + kPageTokens * n);
  const float* q = queries + row * p.heads * n;
  const int keys = min(kPageTokens, position + 1 - first);
  for (int s = static_cast<int>(threadIdx.x) / kWarp; s < keys; s += kWarps) {
    const auto* key = reinterpret_cast<const uint8_t*>(data) + s * n;
    float score = 0;
    for (int64_t h = 0; h < p.heads; ++h) {
      float product = 0;
      for (int i = lane; i < n; i += kWarp) product += q[h * n + i] * e4m3_decode(key[i]);
      score += weights[row * p.heads + h] * fmaxf(warp_sum(product), 0.0f);
    }
    if (lane == 0) pass.scores[row * pass.width + first + s] = score * scales[s];
  }
}

LS_LOAD_AT_START(prepare_any);

}  // namespace

int64_t score_any_bytes(const IndexSelectParams& p, int64_t count) {
  return count * p.heads * (p.cache.head_dim + 1) * 4 + 512;
}

void score_any(Context& context, const ScorePass& pass) {
  const IndexSelectParams& p = pass.p;
  const ScratchScope scope(context);
  const int64_t rows = pass.count * p.heads;
  auto* queries = context.scratch<float>(rows * p.cache.head_dim);
  auto* weights = context.scratch<float>(rows);
  const auto shared = static_cast<size_t>(kWarps * p.cache.head_dim) * sizeof(float);
  launch_kernel(context, "index_select: queries", prepare_any,
                {static_cast<unsigned>((rows + kWarps - 1) / kWarps), kWarps * kWarp, shared}, pass,
                queries, weights);
  const dim3 grid(static_cast<unsigned>(p.batch.page_table_width),
                  static_cast<unsigned>(pass.count));
  launch_kernel(context, "index_select: scores", score_any_kernel, {grid, kWarps * kWarp}, pass,
                queries, weights);
}

}  // namespace longshore::kernels::cuda
