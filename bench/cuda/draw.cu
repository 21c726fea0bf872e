// Rows of the draw of ids from GLM-5.1's logits; the host's draw judges.
#include <fmt/format.h>

#include "bench/cuda/harness.h"
#include "kernels/cuda/ops.h"
#include "kernels/draw.h"

namespace longshore::bench::cuda {
namespace {

using namespace longshore::kernels;

constexpr int64_t kVocab = 154880;

void draw_case(Harness& harness, const char* name, int64_t rows, const DrawRule& rule) {
  auto* logits = harness.allocate<float>(rows * kVocab);
  harness.fill_floats(logits, rows * kVocab, 3);
  std::vector<DrawRule> rules(static_cast<size_t>(rows), rule);
  for (size_t t = 0; t < rules.size(); ++t)
    rules[t].uniform = (static_cast<double>(t) + 0.5) / static_cast<double>(rules.size());
  auto* ids = harness.allocate<int32_t>(rows);
  DrawParams p;
  p.logits = {reinterpret_cast<const std::byte*>(logits), DType::kF32, rows, kVocab, kVocab};
  p.rules = harness.upload(rules);
  p.greedy = rule.temperature == 0;
  p.ids = ids;
  const double seconds =
      harness.seconds([&](int) { kernels::cuda::draw(harness.context(), p); }, 4);
  const std::vector<int32_t> got = harness.download(ids, rows);
  const std::vector<float> host = harness.download(logits, rows * kVocab);
  RowDraw draw_row;
  int64_t wrong = 0;
  for (size_t t = 0; t < got.size(); ++t) {
    const std::span<const float> row(host.data() + t * kVocab, kVocab);
    wrong += draw_row(row, rules[t]) == got[t] ? 0 : 1;
  }
  harness.row(fmt::format("draw {}, {} rows", name, rows), seconds,
              static_cast<double>(rows * kVocab * 4), harness.read_bytes_per_second(), 0,
              wrong == 0 ? "ok" : fmt::format("WRONG: {} rows", wrong));
}

void draw_rows(Harness& harness) {
  for (const int64_t rows : {1, 8, 32, 64}) {
    draw_case(harness, "greedy", rows, {});
    draw_case(harness, "temperature 1", rows, {.temperature = 1});
    draw_case(harness, "temperature 1, top_p 0.95", rows, {.temperature = 1, .top_p = 0.95F});
    draw_case(harness, "temperature 0.8, top_k 50, top_p 0.9, min_p 0.01", rows,
              {.temperature = 0.8F, .top_k = 50, .top_p = 0.9F, .min_p = 0.01F});
    harness.release();
  }
}
const bool kDrawRows = add_group("draw", draw_rows);

}  // namespace
}  // namespace longshore::bench::cuda
