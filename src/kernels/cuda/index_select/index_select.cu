#include <algorithm>

#include "base/check.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/common/launch.cuh"
#include "kernels/cuda/index_select/stages.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int64_t kMostTokens = 32768;  // of a pass: the y extent of a grid ends at 65,535
constexpr int kThreads = 256;

// The scores of the pass as the caller wants to see them: -inf past a token's position.
__global__ void publish_scores(ScorePass pass) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  const int64_t t = pass.first + row;
  auto* to = reinterpret_cast<float*>(pass.p.scores.data) + t * pass.p.scores.stride;
  const int32_t position = pass.p.batch.positions[t];
  for (int64_t s = threadIdx.x; s < pass.p.scores.cols; s += kThreads) {
    to[s] = s <= position ? pass.scores[row * pass.width + s] : -INFINITY;
  }
}

LS_LOAD_AT_START(publish_scores);

}  // namespace

void index_select(Context& context, const IndexSelectParams& p) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(p.cache.dtype == DType::kF8E4M3);
  if (p.q.rows == 0) return;
  const ScratchScope scope(context);
  ScorePass pass;
  pass.p = p;
  pass.all = p.scores.data != nullptr;
  pass.width = p.batch.page_table_width * kPageTokens;
  // Passes as large as scratch memory allows.
  const bool fp8 = takes_score_fp8(context, p);
  const auto query_bytes = [&](int64_t count) {
    return fp8 ? score_fp8_bytes(count) : score_any_bytes(p, count);
  };
  const int64_t token_bytes =
      pass.width * static_cast<int64_t>(sizeof(float)) + query_bytes(2) - query_bytes(1);
  const int64_t fixed = query_bytes(0) + 1024;
  const int64_t most = std::min((context.scratch_left() - fixed) / token_bytes, kMostTokens);
  LS_CHECK_MSG(most >= 1, "scratch memory of {} bytes is less than one token's scores",
               context.scratch_left());
  pass.scores = context.scratch<float>(std::min(most, p.q.rows) * pass.width);
  for (pass.first = 0; pass.first < p.q.rows; pass.first += pass.count) {
    pass.count = std::min(most, p.q.rows - pass.first);
    // Nobody sees more than top_k positions: no scores needed.
    if (pass.all || pass.width > p.top_k) {
      const auto score = fp8 ? score_fp8 : score_any;
      score(context, pass);
    }
    select_top(context, pass);
    if (!pass.all) continue;
    launch_kernel(context, "index_select: scores out", publish_scores,
                  {static_cast<unsigned>(pass.count), kThreads}, pass);
  }
}

}  // namespace longshore::kernels::cuda
