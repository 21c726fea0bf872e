// Rows of the linear layers at GLM-5.1's shapes; the generic product judges.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "bench/cuda/harness.h"
#include "kernels/cuda/linear/generic.h"
#include "kernels/cuda/ops.h"

namespace longshore::bench::cuda {
namespace {

using namespace longshore::kernels;

constexpr int64_t kCacheBytes = int64_t{160} << 20;  // several times the L2 cache
constexpr int64_t kJudged = 4;                       // rows of y that are compared

struct Shape {
  const char* name;
  int64_t heads;
  int64_t out;  // of all heads
  int64_t in;
  DType dtype;
};

// Largest difference over largest value.
std::string verdict(const std::vector<float>& got, const std::vector<float>& expected) {
  double worst = 0;
  double largest = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
  }
  return worst <= 3e-5 * largest ? "ok" : fmt::format("WRONG: {:.1e}", worst / largest);
}

// LONGSHORE_BENCH_SHAPE: the one shape to run, of all.
bool wanted(const Shape& shape) {
  const char* only = std::getenv("LONGSHORE_BENCH_SHAPE");
  return only == nullptr || std::string(only) == shape.name;
}

void linear_case(Harness& harness, const Shape& shape, int64_t tokens) {
  if (!wanted(shape)) return;
  WeightView w;
  w.dtype = shape.dtype;
  w.out = shape.out;
  w.in = shape.in;
  const bool fp8 = shape.dtype == DType::kF8E4M3;
  if (fp8) {
    w.scale_stride = (w.in + 127) / 128;
    auto* scale = harness.allocate<float>((w.out + 127) / 128 * w.scale_stride);
    harness.fill_floats(scale, (w.out + 127) / 128 * w.scale_stride, 0.0003f, 0.002f);
    w.scale = scale;
  }
  const int sets = static_cast<int>(std::clamp<int64_t>(kCacheBytes / w.bytes() + 1, 2, 64));
  auto* data = harness.allocate<std::byte>(sets * w.bytes());
  fp8 ? harness.fill_fp8(data, sets * w.bytes()) : harness.fill_bf16(data, sets * w.bytes() / 2);
  const int64_t in = shape.heads * shape.in;
  auto* x = harness.allocate<uint16_t>(tokens * in);
  harness.fill_bf16(x, tokens * in);
  auto* y = harness.allocate<float>(tokens * shape.out);
  harness.poison(y, tokens * shape.out * 4);
  Context& context = harness.context();
  const auto call = [&](int i) {
    HeadLinearParams p;
    p.x = {reinterpret_cast<const std::byte*>(x), DType::kBF16, tokens, in, in};
    p.x_head_stride = shape.in;
    p.heads = shape.heads;
    p.w = w;
    p.w.data = data + i % sets * w.bytes();
    p.y = {reinterpret_cast<std::byte*>(y), DType::kF32, tokens, shape.out, shape.out};
    p.y_head_stride = shape.out / shape.heads;
    return p;
  };
  const auto run = [&](int i) {
    const HeadLinearParams p = call(i);
    if (shape.heads > 1) return kernels::cuda::head_linear(context, p);
    kernels::cuda::linear(context, {.x = p.x, .w = p.w, .y = p.y});
  };
  const double operations = 2.0 * static_cast<double>(tokens * shape.out * shape.in);
  const double seconds = harness.seconds(run, operations > 1e12 ? 2 : std::max(sets, 8));
  run(0);
  HeadLinearParams judged = call(0);
  judged.x.rows = std::min(kJudged, tokens);
  const auto got = harness.download(y, judged.x.rows * shape.out);
  judged.y.rows = judged.x.rows;
  harness.poison(y, judged.x.rows * shape.out * 4);
  kernels::cuda::generic_product(context, judged, false);
  const auto expected = harness.download(y, judged.x.rows * shape.out);
  harness.row(fmt::format("{} [{}, {}] {}, {} tokens", shape.name, shape.out, shape.in,
                          fp8 ? "fp8" : "bf16", tokens),
              seconds, static_cast<double>(w.bytes_with_scales()), harness.read_bytes_per_second(),
              operations, verdict(got, expected));
  harness.release();
}

const Shape kShapes[] = {
    {"q_a", 1, 2048, 6144, DType::kF8E4M3},       {"q_b", 1, 16384, 2048, DType::kF8E4M3},
    {"kv_a", 1, 576, 6144, DType::kF8E4M3},       {"o", 1, 6144, 16384, DType::kF8E4M3},
    {"dense up", 1, 12288, 6144, DType::kF8E4M3}, {"shared down", 1, 6144, 2048, DType::kF8E4M3},
    {"router", 1, 256, 6144, DType::kBF16},       {"lm_head", 1, 154880, 6144, DType::kBF16},
    {"uk", 64, 64 * 512, 192, DType::kBF16},      {"uv", 64, 64 * 256, 512, DType::kBF16},
};

void linear_rows(Harness& harness) {
  for (const Shape& shape : kShapes) {
    for (const int64_t tokens : {1, 4, 8, 16, 32}) linear_case(harness, shape, tokens);
  }
}
const bool kLinear = add_group("linear", linear_rows);

void prefill_rows(Harness& harness) {
  for (const Shape& shape : kShapes) {
    if (shape.out == 154880) continue;  // never of a whole prompt
    for (const int64_t tokens : {128, 512, 2048}) linear_case(harness, shape, tokens);
  }
}
const bool kPrefill = add_group("linear_prefill", prefill_rows);

}  // namespace
}  // namespace longshore::bench::cuda
