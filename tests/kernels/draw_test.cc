// The draw of ids from logits.
#include "kernels/draw.h"

#include <cmath>

#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

class Draw : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, Draw, kAllBackends, [](const auto& info) { return info.param; });

// No rules: greedy.
std::vector<int32_t> drawn(Backend& backend, Matrix& logits,
                           const std::vector<DrawRule>& rules = {}) {
  std::vector<int32_t> ids(static_cast<size_t>(logits.rows()), -77);
  backend.draw({.logits = logits.view(),
                .rules = rules.empty() ? nullptr : rules.data(),
                .greedy = rules.empty(),
                .ids = ids.data()});
  return ids;
}

TEST_P(Draw, HighestFindsTheHighestLogitOfEveryRow) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {5, 4097}, {4, 154880}, {70, 300}}) {
    Matrix logits = Matrix::random(random, DType::kF32, rows, cols);
    std::vector<int32_t> expected;
    for (int64_t t = 0; t < rows; ++t) {
      if (t % 2 == 1)
        for (int64_t i = 0; i < cols; ++i)
          logits.set(t, i, static_cast<float>(logits.at(t, i) - 1e6));
      int64_t best = 0;
      for (int64_t i = 1; i < cols; ++i) best = logits.at(t, i) > logits.at(t, best) ? i : best;
      expected.push_back(static_cast<int32_t>(best));
    }
    EXPECT_EQ(drawn(*backend, logits), expected) << rows << " x " << cols;
  }
}

TEST_P(Draw, HighestTakesTheLowestIndexOfEqualLogits) {
  Matrix logits(DType::kF32, 3, 9000);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t i = 0; i < 9000; ++i) logits.set(t, i, -1);
  for (const int64_t i : {8000, 4500, 700, 699}) logits.set(0, i, 3);
  logits.set(1, 60, -0.0F);
  logits.set(1, 61, 0.0F);
  EXPECT_EQ(drawn(*backend, logits), (std::vector<int32_t>{699, 60, 0}));
}

TEST_P(Draw, HighestTellsWhatIsNotFinite) {
  const float bad[] = {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY};
  for (const int64_t place : {0, 5000, 8999}) {
    Matrix logits = Matrix::random(random, DType::kF32, 5, 9000);
    for (int64_t t = 0; t < 4; ++t) logits.set(t, place, bad[t]);
    const std::vector<int32_t> ids = drawn(*backend, logits);
    for (size_t t = 0; t < 4; ++t) EXPECT_EQ(ids[t], -1) << bad[t];
    EXPECT_GE(ids[4], 0);
  }
}

struct DrawCase {
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};

// What a row's rule keeps and draws, in double precision from the definition.
int32_t expected_draw(const Matrix& logits, int64_t t, const DrawRule& rule) {
  std::vector<std::pair<double, int32_t>> order;
  for (int64_t i = 0; i < logits.cols(); ++i)
    order.emplace_back(-logits.at(t, i), static_cast<int32_t>(i));
  std::sort(order.begin(), order.end());
  if (rule.top_k > 0 && static_cast<size_t>(rule.top_k) < order.size())
    order.resize(static_cast<size_t>(rule.top_k));
  std::vector<long double> sums;
  const auto mass = [&](size_t i) {
    return std::exp((order.front().first - order[i].first) / rule.temperature);
  };
  for (size_t i = 0; i < order.size(); ++i)
    sums.push_back((sums.empty() ? 0 : sums.back()) + mass(i));
  size_t kept = order.size();
  const long double reach = static_cast<double>(rule.top_p) * sums.back();
  if (rule.top_p < 1 || rule.min_p > 0) {
    kept = 1;
    while (kept < order.size() && mass(kept) >= rule.min_p && sums[kept - 1] < reach) ++kept;
  }
  size_t i = 0;
  while (i + 1 < kept && !(sums[i] > rule.uniform * sums[kept - 1])) ++i;
  return order[i].second;
}

TEST_P(Draw, GivesTheIdThatTheRuleAndTheRandomNumberSay) {
  constexpr int64_t kRows = 24;
  for (const int64_t cols : {3, 500, 20011}) {
    for (const DrawCase& c :
         {DrawCase{1, 0, 1, 0}, DrawCase{0.7F, 0, 0.9F, 0}, DrawCase{1.3F, 40, 1, 0},
          DrawCase{1, 0, 1, 0.05F}, DrawCase{0.9F, 50, 0.95F, 0.02F}, DrawCase{1, 1, 0.5F, 0},
          DrawCase{1e-4F, 0, 0.9F, 0}, DrawCase{50, 0, 0.99F, 0.5F}}) {
      // Rounded to bf16: many are equal.
      Matrix logits = Matrix::random(random, DType::kF32, kRows, cols, 4);
      std::vector<DrawRule> rules;
      std::vector<int32_t> expected;
      for (int64_t t = 0; t < kRows; ++t) {
        const double uniform = t == 0 ? 0 : t == 1 ? 1 - 1e-6 : random.below(1000003) / 1000003.0;
        rules.push_back({t == 2 ? 0 : c.temperature, c.top_k, c.top_p, c.min_p, uniform});
        expected.push_back(t == 2 ? drawn(*backend, logits)[2]
                                  : expected_draw(logits, t, rules.back()));
      }
      EXPECT_EQ(drawn(*backend, logits, rules), expected)
          << cols << " logits, temperature " << c.temperature << ", top_k " << c.top_k << ", top_p "
          << c.top_p << ", min_p " << c.min_p;
    }
  }
}

TEST_P(Draw, EqualLogitsAreDrawnInOrderOfIds) {
  constexpr int64_t kRows = 64;
  constexpr int64_t kCols = 6000;
  Matrix logits(DType::kF32, kRows, kCols);
  std::vector<DrawRule> rules;
  std::vector<int32_t> expected;
  for (int64_t t = 0; t < kRows; ++t) {
    for (int64_t i = 0; i < kCols; ++i) logits.set(t, i, 0.25F);
    // The middle of an id's share, and top_k among equals keeps the lowest ids.
    const auto most = t % 2 == 0 ? kCols : 100;
    const auto id = static_cast<int32_t>(random.below(most));
    rules.push_back({1, t % 2 == 0 ? 0 : 100, 1, 0, (id + 0.5) / static_cast<double>(most)});
    expected.push_back(id);
  }
  EXPECT_EQ(drawn(*backend, logits, rules), expected);
}

TEST_P(Draw, FollowsTheDistribution) {
  constexpr int64_t kDraws = 4000;
  Matrix logits(DType::kF32, kDraws, 5);
  std::vector<DrawRule> rules;
  const double shares[] = {0.4, 0.1, 0.2, 0.05, 0.25};
  for (int64_t t = 0; t < kDraws; ++t) {
    for (int64_t i = 0; i < 5; ++i) logits.set(t, i, static_cast<float>(std::log(shares[i])));
    rules.push_back({1, 0, 1, 0, (static_cast<double>(t) + 0.5) / kDraws});
  }
  std::vector<double> counts(5);
  for (const int32_t id : drawn(*backend, logits, rules)) counts[static_cast<size_t>(id)] += 1;
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(counts[i] / kDraws, shares[i], 2.0 / kDraws) << i;
}

}  // namespace
}  // namespace longshore::kernels
