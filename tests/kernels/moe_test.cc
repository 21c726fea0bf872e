#include <cmath>
#include <numeric>

#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

class Moe : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, Moe, kAllBackends, [](const auto& info) { return info.param; });

struct Routing {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routing route(Backend& backend, Matrix& logits, const std::vector<float>& bias, int64_t top_k,
              bool normalise, float scale) {
  Routing routing;
  routing.ids.assign(static_cast<size_t>(logits.rows() * top_k), -9);
  routing.weights.assign(routing.ids.size(), std::nanf(""));
  backend.router({.logits = logits.view(),
                  .bias = bias.data(),
                  .top_k = top_k,
                  .normalise = normalise,
                  .scale = scale,
                  .ids = routing.ids.data(),
                  .weights = routing.weights.data()});
  return routing;
}

TEST_P(Moe, RouterMatchesDoublePrecision) {
  for (const auto& [experts, top_k] : {std::pair<int64_t, int64_t>{256, 8}, {8, 2}, {5, 5}}) {
    for (bool normalise : {true, false}) {
      Matrix logits = Matrix::random(random, DType::kF32, 11, experts);
      const std::vector<float> bias = random_floats(random, experts, 0.3f);
      const Routing routing = route(*backend, logits, bias, top_k, normalise, 2.5f);
      for (int64_t t = 0; t < 11; ++t) {
        std::vector<int32_t> order(static_cast<size_t>(experts));
        std::iota(order.begin(), order.end(), 0);
        const auto gate = [&](int32_t e) { return 1 / (1 + std::exp(-logits.at(t, e))); };
        const auto choice = [&](int32_t e) { return gate(e) + bias[static_cast<size_t>(e)]; };
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return choice(a) > choice(b); });
        double sum = 0;
        for (int64_t i = 0; i < top_k; ++i) sum += gate(order[static_cast<size_t>(i)]);
        for (int64_t i = 0; i < top_k; ++i) {
          const auto place = static_cast<size_t>(t * top_k + i);
          const int32_t e = order[static_cast<size_t>(i)];
          // Random scores closer than fp32 can tell may swap.
          ASSERT_NEAR(choice(routing.ids[place]), choice(e), 1e-6);
          const double expected = 2.5 * gate(routing.ids[place]) / (normalise ? sum : 1);
          ASSERT_NEAR(routing.weights[place], expected, 1e-5);
        }
      }
    }
  }
}

TEST_P(Moe, RouterBreaksTiesByLowerIndex) {
  Matrix logits(DType::kF32, 1, 6);
  for (int64_t e = 0; e < 6; ++e) logits.set(0, e, e == 4 ? 1.0f : 0.5f);
  const Routing routing = route(*backend, logits, std::vector<float>(6, 0.0f), 3, true, 1);
  EXPECT_EQ(routing.ids, (std::vector<int32_t>{4, 0, 1}));
}

TEST_P(Moe, RouterBiasDecidesTheChoiceOnly) {
  Matrix logits(DType::kF32, 1, 4);
  for (int64_t e = 0; e < 4; ++e) logits.set(0, e, 0);
  logits.set(0, 3, 2);
  const Routing routing = route(*backend, logits, {0, 10, 5, 0}, 2, true, 1);
  EXPECT_EQ(routing.ids, (std::vector<int32_t>{1, 2}));
  EXPECT_FLOAT_EQ(routing.weights[0], 0.5f);
  EXPECT_FLOAT_EQ(routing.weights[1], 0.5f);
}

TEST_P(Moe, RouterJoinsAnExpertBeforeTheChosen) {
  constexpr int64_t kTokens = 7;
  Matrix logits = Matrix::random(random, DType::kF32, kTokens, 40);
  const std::vector<float> bias = random_floats(random, 40, 0.3f);
  const Routing alone = route(*backend, logits, bias, 4, true, 2.5f);
  std::vector<int32_t> ids(kTokens * 5 + 1, -9);
  std::vector<float> weights(kTokens * 5 + 1, -9);
  backend->router({.logits = logits.view(),
                   .bias = bias.data(),
                   .top_k = 4,
                   .normalise = true,
                   .scale = 2.5f,
                   .joined = 40,
                   .ids = ids.data(),
                   .weights = weights.data()});
  for (size_t t = 0; t < kTokens; ++t) {
    for (size_t i = 0; i < 4; ++i) {
      ASSERT_EQ(ids[t * 5 + 1 + i], alone.ids[t * 4 + i]);
      ASSERT_EQ(weights[t * 5 + 1 + i], alone.weights[t * 4 + i]);
    }
    ASSERT_EQ(ids[t * 5], 40);
    ASSERT_EQ(weights[t * 5], 1);
  }
  EXPECT_EQ(ids.back(), -9) << "past the end";
}

struct MoeCase {
  int64_t tokens, hidden, intermediate, experts, top_k;
  bool skip;  // some routes are -1
};

class Experts : public BackendTest {
 protected:
  struct Stack {
    std::vector<Weight> weights;
    std::vector<ExpertView> views;
  };
  Stack make_experts(const MoeCase& c, const std::vector<DType>& dtypes, int block) {
    Stack stack;
    stack.weights.reserve(static_cast<size_t>(3 * c.experts));
    for (int64_t e = 0; e < c.experts; ++e) {
      const DType dtype = dtypes[static_cast<size_t>(e) % dtypes.size()];
      stack.weights.emplace_back(random, dtype, c.intermediate, c.hidden, 128, block);
      stack.weights.emplace_back(random, dtype, c.intermediate, c.hidden, 128, block);
      stack.weights.emplace_back(random, dtype, c.hidden, c.intermediate, 128, block);
    }
    for (size_t e = 0; e < static_cast<size_t>(c.experts); ++e) {
      stack.views.push_back({stack.weights[3 * e].view(), stack.weights[3 * e + 1].view(),
                             stack.weights[3 * e + 2].view()});
    }
    return stack;
  }

  static void add_expected(const MoeCase& c, const Stack& stack, const Matrix& x,
                           const std::vector<int32_t>& ids, const std::vector<float>& weights,
                           const ExpertPart& part, Doubles& y) {
    for (int64_t r = 0; r < c.tokens * c.top_k; ++r) {
      const int32_t e = ids[static_cast<size_t>(r)];
      if (e < 0) continue;
      const Weight* w = &stack.weights[static_cast<size_t>(3 * e)];
      Doubles hidden;
      const int64_t width = e == part.expert ? part.rows : c.intermediate;
      for (int64_t o = 0; o < width; ++o) {
        double gate = 0;
        double up = 0;
        for (int64_t i = 0; i < c.hidden; ++i) {
          gate += w[0].at(o, i) * x.at(r / c.top_k, i);
          up += w[1].at(o, i) * x.at(r / c.top_k, i);
        }
        hidden.push_back(gate / (1 + std::exp(-gate)) * up);
      }
      for (int64_t o = 0; o < c.hidden; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) {
          sum += w[2].at(o, i) * hidden[static_cast<size_t>(i)];
        }
        y[static_cast<size_t>(r / c.top_k * c.hidden + o)] += weights[static_cast<size_t>(r)] * sum;
      }
    }
  }

  void check(const MoeCase& c, const std::vector<DType>& dtypes, int block = 128,
             const ExpertPart& part = {}) {
    const Stack stack = make_experts(c, dtypes, block);
    Matrix x = Matrix::random(random, act(), c.tokens, c.hidden);
    Matrix y = Matrix::random(random, DType::kF32, c.tokens, c.hidden);
    const std::vector<float> weights = random_floats(random, c.tokens * c.top_k, 0.2f, 0.5f);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < c.tokens; ++t) {
      std::vector<int32_t> order(static_cast<size_t>(c.experts));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random.engine);
      ids.insert(ids.end(), order.begin(), order.begin() + c.top_k);
      if (c.skip) ids[ids.size() - 1 - static_cast<size_t>(random.below(c.top_k))] = -1;
    }
    Doubles expected = y.values();
    add_expected(c, stack, x, ids, weights, part, expected);
    Matrix alone = y;
    const Matrix before = y;
    ExpertsParams params{.x = x.view(),
                         .ids = ids.data(),
                         .weights = weights.data(),
                         .top_k = c.top_k,
                         .experts = stack.views.data(),
                         .num_experts = c.experts,
                         .shape = shape_of(stack.views[0]),
                         .mixed = dtypes.size() > 1,
                         .part = part,
                         .y = y.view()};
    int calls = 0;
    const std::function<void()> meanwhile = [&calls] { ++calls; };
    if (!is_cuda()) params.meanwhile = &meanwhile;
    backend->experts(params);
    EXPECT_EQ(calls, is_cuda() ? 0 : 1);
    params.meanwhile = nullptr;
    // Production rounds the intermediate to bf16.
    EXPECT_LE(worst_error(y.values(), expected), is_reference() ? 5e-6 : 4e-3);
    EXPECT_TRUE(y.gaps_untouched());

    ThreadPool five(5);
    params.y = alone.view();
    with(five)->experts(params);
    EXPECT_EQ(alone.values(), y.values()) << "depends on threads";
    if (is_reference() || is_cuda()) return;
    ThreadPool nodes(5, Topology{{{0}, {1}, {0}}});
    Matrix placed = before;
    params.y = placed.view();
    with(nodes)->experts(params);
    EXPECT_EQ(placed.values(), y.values()) << "depends on memory nodes";
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, Experts, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(Experts, MatchDoublePrecision) {
  check({1, 256, 128, 16, 8, false}, {DType::kF8E4M3});
  check({1, 96, 72, 8, 2, false}, {DType::kBF16});
  check({9, 128, 200, 8, 2, false}, {DType::kF8E4M3});
  check({70, 96, 40, 4, 2, false}, {DType::kF32});
  check({300, 64, 33, 3, 2, false}, {DType::kF8E4M3});
  check({24, 128, 96, 3, 2, false}, {DType::kF8E4M3});
  check({64, 192, 130, 4, 1, false}, {DType::kBF16});
  check({1200, 64, 48, 2, 1, false}, {DType::kF8E4M3});  // more routes of an expert than one block
  for (int64_t tokens = 2; tokens < 9; ++tokens) {
    check({tokens, 160, 72, 2, 2, false}, {DType::kF8E4M3});
  }
}

TEST_P(Experts, MayDifferInDtypeAndHaveRaggedBlocks) {
  check({13, 96, 70, 8, 3, false}, {DType::kF8E4M3, DType::kBF16, DType::kF32, DType::kF16}, 40);
  check({40, 96, 70, 4, 3, false}, {DType::kF8E4M3, DType::kBF16, DType::kF32, DType::kF16}, 40);
}

TEST_P(Experts, SkipRoutesThatAreComputedElsewhere) {
  check({1, 96, 40, 4, 1, true}, {DType::kBF16});
  check({11, 96, 40, 6, 3, true}, {DType::kF8E4M3});
}

TEST_P(Experts, MayComputeAPartOfOne) {
  if (is_cuda()) GTEST_SKIP() << "a device computes whole experts";
  for (const int64_t rows : {1, 8, 40, 64, 100, 128}) {
    check({1, 96, 128, 1, 1, false}, {DType::kF8E4M3}, 128, {0, rows});
    check({1, 96, 128, 8, 8, false}, {DType::kF8E4M3}, 128, {3, rows});
    check({5, 96, 128, 4, 3, false}, {DType::kBF16}, 128, {1, rows});
    check({40, 64, 128, 3, 2, true}, {DType::kF8E4M3}, 128, {2, rows});
    check({13, 96, 130, 8, 3, false}, {DType::kF8E4M3, DType::kBF16, DType::kF32, DType::kF16}, 40,
          {4, rows});
  }
}

TEST(Reference, ExpertsOfATokenAreIndependentOfItsBatch) {
  ThreadPool pool(2);
  Random random;
  auto backend = make_reference_backend(pool);
  std::vector<Weight> weights;
  for (int i = 0; i < 3; ++i) weights.emplace_back(random, DType::kF8E4M3, 64, 64);
  const ExpertView expert{weights[0].view(), weights[1].view(), weights[2].view()};
  Matrix x = Matrix::random(random, DType::kF32, 6, 64);
  Matrix y = Matrix::random(random, DType::kF32, 6, 64);
  Matrix z = y;
  const std::vector<int32_t> ids(6, 0);
  const std::vector<float> route_weights = random_floats(random, 6);
  ExpertsParams params{.x = x.view(),
                       .ids = ids.data(),
                       .weights = route_weights.data(),
                       .top_k = 1,
                       .experts = &expert,
                       .num_experts = 1,
                       .shape = shape_of(expert),
                       .y = y.view()};
  backend->experts(params);
  for (int64_t t = 0; t < 6; ++t) {
    params.x = x.view().slice_rows(t, 1);
    params.y = z.view().slice_rows(t, 1);
    params.weights = &route_weights[static_cast<size_t>(t)];
    backend->experts(params);
  }
  EXPECT_EQ(y.values(), z.values());
}

TEST(CpuBackend, RefusesUnknownInstructionSets) {
  ThreadPool pool(1);
  const auto made = make_cpu_backend(pool, "avx1024");
  ASSERT_FALSE(made.has_value());
  EXPECT_EQ(made.error().kind, ErrorKind::kUsage);
  EXPECT_TRUE(make_cpu_backend(pool, "auto").has_value());
}

}  // namespace
}  // namespace longshore::kernels
