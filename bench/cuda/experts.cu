// Rows of the mixture of experts at GLM-5.1's shapes; the generic kernels judge.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <set>

#include <fmt/format.h>

#include "bench/cuda/harness.h"
#include "kernels/cuda/experts/generic.h"
#include "kernels/cuda/ops.h"

namespace longshore::bench::cuda {
namespace {

using namespace longshore::kernels;

constexpr int64_t kHidden = 6144;
constexpr int64_t kExperts = 256;
constexpr int64_t kTopK = 8;
constexpr int64_t kJudged = 4;  // tokens that are compared

// All experts of one layer and its shared one, number kExperts, FP8.
struct Bank {
  std::vector<ExpertView> views;
  const ExpertView* table = nullptr;

  Bank(Harness& harness, int64_t width) {
    const int64_t matrix = kHidden * width;
    constexpr int64_t kAll = kExperts + 1;
    auto* data = harness.allocate<std::byte>(kAll * 3 * matrix);
    harness.fill_fp8(data, kAll * 3 * matrix);
    const int64_t scales = (kHidden / 128) * (width / 128);
    auto* scale = harness.allocate<float>(kAll * 3 * scales);
    harness.fill_floats(scale, kAll * 3 * scales, 0.0001f, 0.0006f);
    for (int64_t e = 0; e < kAll; ++e) {
      ExpertView view;
      int64_t at = 3 * e;
      for (WeightView* w : {&view.gate, &view.up, &view.down}) {
        w->data = data + at * matrix;
        w->dtype = DType::kF8E4M3;
        w->out = w == &view.down ? kHidden : width;
        w->in = w == &view.down ? width : kHidden;
        w->scale = scale + at * scales;
        w->scale_stride = w->in / 128;
        ++at;
      }
      views.push_back(view);
    }
    table = harness.upload(views);
  }
};

struct Routing {
  const int32_t* ids = nullptr;
  double distinct = 0;
};

// joined: every token has the shared expert's route too.
Routing route(Harness& harness, int64_t tokens, std::mt19937& engine, bool joined = false) {
  std::vector<int32_t> ids;
  std::vector<int32_t> order(kExperts);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(order.begin(), order.end(), engine);
    ids.insert(ids.end(), order.begin(), order.begin() + kTopK);
    if (joined) ids.push_back(kExperts);
  }
  const std::set<int32_t> distinct(ids.begin(), ids.end());
  return {harness.upload(ids), static_cast<double>(distinct.size())};
}

std::string verdict(const std::vector<float>& got, const std::vector<float>& expected,
                    double tolerance) {
  double worst = 0;
  double largest = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
  }
  return worst <= tolerance * largest ? "ok" : fmt::format("WRONG: {:.1e}", worst / largest);
}

void experts_case(Harness& harness, const Bank& bank, int64_t tokens, bool w8a8) {
  // LONGSHORE_BENCH_TOKENS: the one number to run.
  const char* only = std::getenv("LONGSHORE_BENCH_TOKENS");
  if (only != nullptr && std::atoll(only) != tokens) return;
  std::mt19937 engine(13);
  const int sets = tokens <= 64 ? 8 : 2;
  std::vector<Routing> routings;
  double distinct = 0;
  for (int i = 0; i < sets; ++i) {
    routings.push_back(route(harness, tokens, engine));
    distinct += routings.back().distinct / sets;
  }
  auto* x = harness.allocate<uint16_t>(tokens * kHidden);
  harness.fill_bf16(x, tokens * kHidden);
  auto* y = harness.allocate<float>(tokens * kHidden);
  harness.fill_floats(y, tokens * kHidden, 1);
  auto* weights = harness.allocate<float>(tokens * kTopK);
  harness.fill_floats(weights, tokens * kTopK, 0.05f, 0.3f);
  Context& context = harness.context();
  const char* folder = std::getenv("LONGSHORE_BENCH_MOE_CONFIGS");
  MoeConfigs configs(folder == nullptr ? "" : folder, context.name(),
                     [](const std::string& line) { fmt::print("{}\n", line); });
  const auto call = [&](int i) {
    ExpertsParams p;
    p.x = {reinterpret_cast<const std::byte*>(x), DType::kBF16, tokens, kHidden, kHidden};
    p.ids = routings[static_cast<size_t>(i % sets)].ids;
    p.weights = weights;
    p.top_k = kTopK;
    p.experts = bank.table;
    p.num_experts = kExperts;
    p.shape = shape_of(bank.views[0]);
    p.y = {reinterpret_cast<std::byte*>(y), DType::kF32, tokens, kHidden, kHidden};
    return p;
  };
  const int64_t width = bank.views[0].gate.out;
  const double operations = 6.0 * static_cast<double>(tokens * kTopK * kHidden * width);
  const double expert_bytes = static_cast<double>(3 * bank.views[0].gate.bytes_with_scales());
  const double seconds = harness.seconds(
      [&](int i) { kernels::cuda::experts(context, call(i), configs, w8a8); }, sets);
  const int64_t judged = std::min(tokens, kJudged);
  harness.fill_floats(y, tokens * kHidden, 0, 1);
  kernels::cuda::experts(context, call(0), configs, w8a8);
  const auto got = harness.download(y, judged * kHidden);
  harness.fill_floats(y, tokens * kHidden, 0, 1);
  ExpertsParams few = call(0);
  few.x.rows = judged;
  few.y.rows = judged;
  kernels::cuda::generic_experts(context, few);
  const auto expected = harness.download(y, judged * kHidden);
  // The intermediate is rounded to bf16: sums in another order may round to the neighbour.
  harness.row(fmt::format("experts {}, N {}, {} tokens", w8a8 ? "w8a8" : "w8a16", width, tokens),
              seconds, distinct * expert_bytes, harness.read_bytes_per_second(), operations,
              verdict(got, expected, w8a8 ? 8e-2 : 4e-3));
}

// A layer's routed experts and its shared one: by one grouped product, or by products of their own.
void shared_case(Harness& harness, const Bank& bank, int64_t tokens, bool joined, bool w8a8) {
  std::mt19937 engine(13);
  const int sets = tokens <= 64 ? 8 : 2;
  std::vector<Routing> routings;
  double distinct = 1;
  for (int i = 0; i < sets; ++i) {
    routings.push_back(route(harness, tokens, engine, joined));
    distinct += (routings.back().distinct - (joined ? 1 : 0)) / sets;
  }
  const int64_t width = bank.views[0].gate.out;
  auto* x = harness.allocate<uint16_t>(tokens * kHidden);
  harness.fill_bf16(x, tokens * kHidden);
  auto* y = harness.allocate<float>(tokens * kHidden);
  auto* weights = harness.allocate<float>(tokens * (kTopK + 1));
  harness.fill_floats(weights, tokens * (kTopK + 1), 0, 1);  // all 1: both ways compute the same
  auto* gate = harness.allocate<float>(tokens * width);
  auto* up = harness.allocate<float>(tokens * width);
  auto* ffn = harness.allocate<uint16_t>(tokens * width);
  const auto view = [&](auto* data, DType dtype, int64_t cols) {
    return MatrixView{reinterpret_cast<std::byte*>(data), dtype, tokens, cols, cols};
  };
  Context& context = harness.context();
  MoeConfigs configs("", context.name(), nullptr);
  const auto run = [&](int i) {
    ExpertsParams p;
    p.x = view(x, DType::kBF16, kHidden);
    p.ids = routings[static_cast<size_t>(i % sets)].ids;
    p.weights = weights;
    p.top_k = kTopK + (joined ? 1 : 0);
    p.experts = bank.table;
    p.num_experts = kExperts + (joined ? 1 : 0);
    p.shape = shape_of(bank.views[0]);
    p.y = view(y, DType::kF32, kHidden);
    kernels::cuda::experts(context, p, configs, w8a8);
    if (joined) return;
    const ExpertView& shared = bank.views[kExperts];
    kernels::cuda::linear(context,
                          {.x = p.x, .w = shared.gate, .y = view(gate, DType::kF32, width)});
    kernels::cuda::linear(context, {.x = p.x, .w = shared.up, .y = view(up, DType::kF32, width)});
    kernels::cuda::silu_mul(context, {.gate = view(gate, DType::kF32, width),
                                      .up = view(up, DType::kF32, width),
                                      .y = view(ffn, DType::kBF16, width)});
    kernels::cuda::linear(
        context,
        {.x = view(ffn, DType::kBF16, width), .w = shared.down, .y = p.y, .accumulate = true});
  };
  harness.fill_floats(y, tokens * kHidden, 0, 1);
  const double seconds = harness.seconds(run, sets);
  const int64_t judged = std::min(tokens, kJudged);
  harness.fill_floats(y, tokens * kHidden, 0, 1);
  run(0);
  const auto got = harness.download(y, judged * kHidden);
  harness.fill_floats(y, tokens * kHidden, 0, 1);
  std::mt19937 again(13);
  ExpertsParams few;
  few.x = view(x, DType::kBF16, kHidden);
  few.x.rows = judged;
  few.y = view(y, DType::kF32, kHidden);
  few.y.rows = judged;
  few.ids = route(harness, tokens, again, true).ids;
  few.weights = weights;
  few.top_k = kTopK + 1;
  few.experts = bank.table;
  few.num_experts = kExperts + 1;
  few.shape = shape_of(bank.views[0]);
  kernels::cuda::generic_experts(context, few);
  const auto expected = harness.download(y, judged * kHidden);
  harness.row(
      fmt::format("with shared, {}, {}, N {}, {} tokens", joined ? "one product" : "own products",
                  w8a8 ? "w8a8" : "w8a16", width, tokens),
      seconds, distinct * static_cast<double>(3 * bank.views[0].gate.bytes_with_scales()),
      harness.read_bytes_per_second(),
      6.0 * static_cast<double>(tokens * (kTopK + 1) * kHidden * width),
      verdict(got, expected, w8a8 ? 8e-2 : 4e-3));
}

void shared_rows(Harness& harness) {
  for (const int64_t width : {2048, 256}) {
    const Bank bank(harness, width);
    for (const bool w8a8 : {false, true}) {
      for (const int64_t tokens : {1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
        if (w8a8 && tokens < 512) continue;
        for (const bool joined : {false, true}) shared_case(harness, bank, tokens, joined, w8a8);
      }
    }
    harness.release();
  }
}

void experts_rows(Harness& harness) {
  for (const int64_t width : {2048, 256}) {
    const Bank bank(harness, width);
    for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096}) {
      experts_case(harness, bank, tokens, false);
    }
    for (const int64_t tokens : {512, 1024, 4096}) experts_case(harness, bank, tokens, true);
    harness.release();
  }
}
const bool kExpertsRows = add_group("experts", experts_rows);
const bool kSharedRows = add_group("shared", shared_rows);

}  // namespace
}  // namespace longshore::bench::cuda
