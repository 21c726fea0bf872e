// What passes between the router and those who compute experts.
#include <algorithm>
#include <cstring>

#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

class RoutesOp : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, RoutesOp, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(RoutesOp, MaskKeepsWhatItIsToldAndNothingElse) {
  for (const int64_t count : {1, 8, 63, 4096, 100001}) {
    constexpr int64_t kExperts = 61;
    std::vector<int32_t> ids;
    std::vector<int32_t> keep;
    for (int64_t e = 0; e < kExperts; ++e) keep.push_back(static_cast<int32_t>(random.below(3)));
    for (int64_t i = 0; i < count; ++i)
      ids.push_back(static_cast<int32_t>(random.below(kExperts + 1)) - 1);
    std::vector<int32_t> out(static_cast<size_t>(count) + 1, -77);
    backend->mask_routes({.ids = ids.data(),
                          .count = count,
                          .keep = keep.data(),
                          .num_experts = kExperts,
                          .out = out.data()});
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool kept = ids[i] >= 0 && keep[static_cast<size_t>(ids[i])] != 0;
      ASSERT_EQ(out[i], kept ? ids[i] : -1) << i;
    }
    EXPECT_EQ(out.back(), -77) << "past the end";
  }
}

TEST_P(RoutesOp, AddAddsEveryElementOnce) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 257}, {17, 6144}}) {
    Matrix x = Matrix::random(random, DType::kF32, rows, cols);
    Matrix y = Matrix::random(random, DType::kF32, rows, cols);
    const Doubles added = x.values();
    const Doubles before = y.values();
    backend->add({.x = x.view(), .y = y.view()});
    const Doubles after = y.values();
    for (size_t i = 0; i < after.size(); ++i)
      ASSERT_EQ(after[i], static_cast<double>(static_cast<float>(before[i] + added[i])));
    EXPECT_TRUE(y.gaps_untouched());
  }
}

}  // namespace
}  // namespace longshore::kernels
