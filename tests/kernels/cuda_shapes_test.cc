// The fast CUDA kernels at shapes that they take, judged by the CPU's: on machines with a GPU only.
#include <cmath>

#include "tests/kernels/mirror.h"
#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

// Random bytes, quickly. Aligned as a device needs no less than a host.
class BigWeight {
 public:
  BigWeight(Random& random, DType dtype, int64_t out, int64_t in, int block_rows = 128)
      : bytes_(static_cast<size_t>(out * in * dtype_size(dtype))) {
    view_.dtype = dtype;
    view_.out = out;
    view_.in = in;
    view_.block_rows = block_rows;
    view_.data = bytes_.data();
    for (size_t i = 0; i < bytes_.size(); ++i) {
      const auto bits = static_cast<uint32_t>(random.engine());
      if (dtype == DType::kF8E4M3) {
        auto code = static_cast<uint8_t>(bits & 0xbf);  // magnitudes to 2
        bytes_[i] = std::byte{code};
      } else if (i % 2 == 1) {  // bf16 of 2^-7 to 2^1
        bytes_[i - 1] = std::byte{static_cast<uint8_t>(bits)};
        bytes_[i] = std::byte{static_cast<uint8_t>((bits >> 8 & 0x80) | (0x3c + (bits >> 16 & 3)))};
      }
    }
    if (dtype != DType::kF8E4M3) return;
    view_.scale_stride = (in + 127) / 128;
    scales_ = random_floats(random, (out + block_rows - 1) / block_rows * view_.scale_stride,
                            0.002f, 0.02f);
    view_.scale = scales_.data();
  }
  [[nodiscard]] const WeightView& view() const { return view_; }

 private:
  WeightView view_;
  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
};

class CudaShapes : public testing::Test {
 protected:
  void SetUp() override {
    auto made = make_cuda_backend({});
    if (!made) GTEST_SKIP() << "skipped: " << made.error().message;
    cuda = std::make_unique<MirrorBackend>(std::move(*made));
    cpu = make_cpu_backend(pool, "auto").value();
  }

  ThreadPool pool{4};
  Random random;
  std::unique_ptr<Backend> cuda;
  std::unique_ptr<Backend> cpu;
};

struct ShapeCase {
  int64_t tokens, out, in;
  DType dtype;
};

TEST_F(CudaShapes, LinearMatchesTheCpu) {
  const DType fp8 = DType::kF8E4M3;
  const DType bf16 = DType::kBF16;
  for (const ShapeCase& c : {ShapeCase{1, 2048, 6144, fp8},
                             {3, 576, 6144, fp8},
                             {8, 2048, 2048, fp8},
                             {16, 2048, 6144, fp8},
                             {17, 640, 2048, fp8},
                             {29, 300, 1024, fp8},
                             {32, 6144, 2048, fp8},
                             {65, 2048, 1024, fp8},
                             {128, 256, 6144, fp8},
                             {600, 384, 512, fp8},
                             {5, 16384, 128, fp8},
                             {1, 256, 6144, bf16},
                             {7, 1000, 64, bf16},
                             {16, 4096, 576, bf16},
                             {130, 256, 6144, bf16},
                             {700, 130, 640, bf16}}) {
    const BigWeight w(random, c.dtype, c.out, c.in);
    // Sums of many tokens stay in the tensor cores, which truncate.
    const double tolerance = c.tokens > 32 ? 3e-5 : 4e-6;
    for (DType in : {DType::kF32, bf16}) {
      Matrix x = Matrix::random(random, in, c.tokens, c.in);
      Matrix y(DType::kF32, c.tokens, c.out);
      Matrix expected(DType::kF32, c.tokens, c.out);
      const LinearParams params{.x = x.view(), .w = w.view(), .y = y.view()};
      cuda->linear(params);
      LinearParams judge = params;
      judge.y = expected.view();
      cpu->linear(judge);
      EXPECT_LE(worst_error(y.values(), expected.values()), tolerance)
          << c.tokens << " tokens, [" << c.out << ", " << c.in << "] " << dtype_name(c.dtype);
      EXPECT_TRUE(y.gaps_untouched());

      judge.accumulate = true;
      LinearParams again = params;
      again.accumulate = true;
      cuda->linear(again);
      cpu->linear(judge);
      EXPECT_LE(worst_error(y.values(), expected.values()), tolerance) << "accumulated";

      Matrix rounded(bf16, c.tokens, c.out);
      judge.accumulate = false;
      cpu->linear(judge);
      again.accumulate = false;
      again.y = rounded.view();
      cuda->linear(again);
      EXPECT_LE(worst_error(rounded.values(), expected.values()),
                output_tolerance(bf16) + tolerance);
      EXPECT_TRUE(rounded.gaps_untouched());
    }
  }
}

TEST_F(CudaShapes, LinearCarriesNaNOfFp8ToItsRowOnly) {
  for (int64_t tokens : {1, 16, 40, 300}) {
    Weight w(random, DType::kF8E4M3, 256, 256);
    w.set_code(17, 99, 0x7f);
    w.set_code(180, 3, 0xff);
    Matrix x = Matrix::random(random, DType::kBF16, tokens, 256);
    Matrix y(DType::kF32, tokens, 256);
    cuda->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    for (int64_t o = 0; o < 256; ++o) {
      EXPECT_EQ(std::isnan(y.at(tokens - 1, o)), o == 17 || o == 180) << o;
    }
  }
}

TEST_F(CudaShapes, LinearIsTheSameEveryTime) {
  const BigWeight w(random, DType::kF8E4M3, 1024, 2048);
  for (int64_t tokens : {1, 12, 200}) {
    Matrix x = Matrix::random(random, DType::kBF16, tokens, 2048);
    Matrix y(DType::kF32, tokens, 1024);
    Matrix z(DType::kF32, tokens, 1024);
    cuda->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    cuda->linear({.x = x.view(), .w = w.view(), .y = z.view()});
    EXPECT_EQ(y.values(), z.values());
  }
}

Doubles row_of(const Matrix& m, int64_t r) {
  Doubles values;
  for (int64_t c = 0; c < m.cols(); ++c) values.push_back(m.at(r, c));
  return values;
}

// Tokens of 2^-60 to 2^60: many of them pass through fp16 on their way.
Matrix tokens_of_any_magnitude(Random& random, int64_t tokens, int64_t cols) {
  Matrix x = Matrix::random(random, DType::kBF16, tokens, cols);
  for (int64_t t = 0; t < tokens; ++t) {
    const int exponent = static_cast<int>(t % 9 - 4) * 15;
    for (int64_t i = 0; i < cols; ++i) {
      x.set(t, i, std::ldexp(static_cast<float>(x.at(t, i)), exponent));
    }
  }
  return x;
}

TEST_F(CudaShapes, LinearTakesTokensOfAnyMagnitude) {
  const BigWeight w(random, DType::kF8E4M3, 256, 512);
  for (int64_t tokens : {9, 45, 160, 700}) {
    Matrix x = tokens_of_any_magnitude(random, tokens, 512);
    Matrix y(DType::kF32, tokens, 256);
    Matrix expected(DType::kF32, tokens, 256);
    cuda->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    cpu->linear({.x = x.view(), .w = w.view(), .y = expected.view()});
    for (int64_t t = 0; t < tokens; ++t) {
      ASSERT_LE(worst_error(row_of(y, t), row_of(expected, t)), 3e-5) << "token " << t;
    }
    x.set(3, 100, std::nanf(""));
    x.set(5, 7, INFINITY);
    Matrix z(DType::kF32, tokens, 256);
    cuda->linear({.x = x.view(), .w = w.view(), .y = z.view()});
    for (int64_t t = 0; t < tokens; ++t) {
      if (t == 3) {
        EXPECT_TRUE(std::isnan(z.at(t, 0)));
      } else if (t == 5) {
        EXPECT_FALSE(std::isfinite(z.at(t, 0)));
      } else {
        ASSERT_EQ(row_of(z, t), row_of(y, t)) << "token " << t;
      }
    }
  }
}

TEST_F(CudaShapes, HeadLinearMatchesTheCpu) {
  for (int64_t tokens : {1, 9, 40, 300}) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{192, 512}, {512, 256}}) {
      constexpr int64_t kHeads = 8;
      const BigWeight w(random, DType::kBF16, kHeads * out, in);
      Matrix x = Matrix::random(random, DType::kBF16, tokens, kHeads * (in + 64));
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        Matrix y(dtype, tokens, kHeads * out);
        Matrix expected(dtype, tokens, kHeads * out);
        HeadLinearParams params{.x = x.view(),
                                .x_head_stride = in + 64,
                                .heads = kHeads,
                                .w = w.view(),
                                .y = y.view(),
                                .y_head_stride = out};
        cuda->head_linear(params);
        params.y = expected.view();
        cpu->head_linear(params);
        EXPECT_LE(worst_error(y.values(), expected.values()), 4e-6 + output_tolerance(dtype));
        EXPECT_TRUE(y.gaps_untouched());
      }
    }
  }
}

struct ExpertsCase {
  int64_t tokens, hidden, intermediate, experts, top_k;
  DType dtype;
};

TEST_F(CudaShapes, ExpertsMatchTheCpu) {
  const DType fp8 = DType::kF8E4M3;
  for (const ExpertsCase& c : {ExpertsCase{1, 6144, 2048, 8, 8, fp8},
                               {5, 6144, 256, 32, 8, fp8},
                               {16, 1024, 2048, 8, 2, fp8},
                               {64, 6144, 256, 8, 8, fp8},
                               {300, 1024, 512, 8, 8, fp8},
                               {700, 512, 256, 5, 3, fp8},
                               {1, 1024, 512, 8, 8, DType::kBF16},
                               {40, 1024, 512, 8, 4, DType::kBF16},
                               {600, 256, 128, 8, 4, DType::kBF16}}) {
    std::vector<BigWeight> weights;
    weights.reserve(static_cast<size_t>(3 * c.experts));
    std::vector<ExpertView> views;
    for (int64_t e = 0; e < c.experts; ++e) {
      ExpertView view;
      view.gate = weights.emplace_back(random, c.dtype, c.intermediate, c.hidden).view();
      view.up = weights.emplace_back(random, c.dtype, c.intermediate, c.hidden).view();
      view.down = weights.emplace_back(random, c.dtype, c.hidden, c.intermediate).view();
      views.push_back(view);
    }
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < c.tokens * c.top_k; ++r) {
      // Uneven loads; some routes elsewhere; never two of a token's to one expert.
      const int64_t e = (r % c.top_k + r / c.top_k * (r / c.top_k % 3)) % c.experts;
      ids.push_back(random.below(9) == 0 ? -1 : static_cast<int32_t>(e));
    }
    const std::vector<float> route_weights = random_floats(random, c.tokens * c.top_k, 0.1f, 0.4f);
    Matrix x = Matrix::random(random, DType::kBF16, c.tokens, c.hidden, 0.1f);
    Matrix y = Matrix::random(random, DType::kF32, c.tokens, c.hidden);
    Matrix again = y;
    Matrix expected = y;
    ExpertsParams params{.x = x.view(),
                         .ids = ids.data(),
                         .weights = route_weights.data(),
                         .top_k = c.top_k,
                         .experts = views.data(),
                         .num_experts = c.experts,
                         .shape = shape_of(views[0]),
                         .y = y.view()};
    cuda->experts(params);
    params.y = expected.view();
    cpu->experts(params);
    EXPECT_LE(worst_error(y.values(), expected.values()), 4e-3)
        << c.tokens << " tokens, " << c.hidden << " by " << c.intermediate;
    EXPECT_TRUE(y.gaps_untouched());
    params.y = again.view();
    cuda->experts(params);
    EXPECT_EQ(y.values(), again.values()) << "not the same every time";
  }
}

TEST_F(CudaShapes, ExpertsTakeTokensOfAnyMagnitude) {
  constexpr int64_t kExperts = 4;
  std::vector<BigWeight> weights;
  weights.reserve(3 * kExperts);
  std::vector<ExpertView> views;
  for (int64_t e = 0; e < kExperts; ++e) {
    ExpertView view;
    view.gate = weights.emplace_back(random, DType::kF8E4M3, 256, 512).view();
    view.up = weights.emplace_back(random, DType::kF8E4M3, 256, 512).view();
    view.down = weights.emplace_back(random, DType::kF8E4M3, 512, 256).view();
    views.push_back(view);
  }
  for (int64_t tokens : {3, 18, 90, 270}) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(t % kExperts));
    const std::vector<float> route_weights(static_cast<size_t>(tokens), 1.0f);
    // The product of gate and up of 2^45: hidden values up to 2^90.
    Matrix x(DType::kBF16, tokens, 512);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 512; ++i) {
        x.set(t, i, std::ldexp(random.normal(), static_cast<int>(t % 4) * 15));
      }
    }
    Matrix y(DType::kF32, tokens, 512);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 512; ++i) y.set(t, i, 0);
    }
    Matrix expected = y;
    ExpertsParams params{.x = x.view(),
                         .ids = ids.data(),
                         .weights = route_weights.data(),
                         .top_k = 1,
                         .experts = views.data(),
                         .num_experts = kExperts,
                         .shape = shape_of(views[0]),
                         .y = y.view()};
    cuda->experts(params);
    params.y = expected.view();
    cpu->experts(params);
    for (int64_t t = 0; t < tokens; ++t) {
      ASSERT_LE(worst_error(row_of(y, t), row_of(expected, t)), 6e-3) << "token " << t;
    }
  }
}

// FP8 activations have 4 bits: the sums of random terms keep about 1 part in 30.
TEST_F(CudaShapes, ExpertsRoundActivationsToFp8WhereAsked) {
  auto made = make_cuda_backend({.moe_w8a8 = true});
  ASSERT_TRUE(made.has_value()) << made.error().message;
  MirrorBackend w8a8(std::move(*made));
  constexpr int64_t kExperts = 5;
  std::vector<BigWeight> weights;
  weights.reserve(3 * kExperts);
  std::vector<ExpertView> views;
  for (int64_t e = 0; e < kExperts; ++e) {
    ExpertView view;
    view.gate = weights.emplace_back(random, DType::kF8E4M3, 384, 1024).view();
    view.up = weights.emplace_back(random, DType::kF8E4M3, 384, 1024).view();
    view.down = weights.emplace_back(random, DType::kF8E4M3, 1024, 384).view();
    views.push_back(view);
  }
  for (int64_t tokens : {30, 100, 330}) {
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < 2 * tokens; ++r) {
      ids.push_back(r % 2 == 0 ? static_cast<int32_t>(r / 2 % 2) : 2 + static_cast<int32_t>(r % 3));
      if (random.below(9) == 0) ids.back() = -1;
    }
    const std::vector<float> route_weights = random_floats(random, 2 * tokens, 0.1f, 0.4f);
    Matrix x = Matrix::random(random, DType::kBF16, tokens, 1024, 0.1f);
    Matrix y(DType::kF32, tokens, 1024);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 1024; ++i) y.set(t, i, 0);
    }
    Matrix again = y;
    Matrix expected = y;
    ExpertsParams params{.x = x.view(),
                         .ids = ids.data(),
                         .weights = route_weights.data(),
                         .top_k = 2,
                         .experts = views.data(),
                         .num_experts = kExperts,
                         .shape = shape_of(views[0]),
                         .y = y.view()};
    w8a8.experts(params);
    params.y = again.view();
    w8a8.experts(params);
    params.y = expected.view();
    cpu->experts(params);
    const double error = worst_error(y.values(), expected.values());
    EXPECT_LE(error, 8e-2) << tokens;
    EXPECT_GE(error, 5e-3) << "activations were not rounded";
    EXPECT_TRUE(y.gaps_untouched());
    EXPECT_EQ(y.values(), again.values());
  }
}

}  // namespace
}  // namespace longshore::kernels
