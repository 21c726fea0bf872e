#include <cmath>
#include <cstring>

#include "kernels/format/e4m3.h"
#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

// Sums of exact products in fp32.
constexpr double kSumTolerance = 2e-6;

class Dense : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, Dense, kAllBackends,
                         [](const auto& info) { return info.param; });

Doubles linear_in_double(const Matrix& x, const Weight& w, int64_t out) {
  Doubles y;
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < x.cols(); ++i) sum += x.at(t, i) * w.at(o, i);
      y.push_back(sum);
    }
  }
  return y;
}

struct LinearCase {
  int64_t tokens, in, out;
  int block_rows = 128, block_cols = 128;
};

void PrintTo(const LinearCase& c, std::ostream* out) {
  *out << c.tokens << " tokens, " << c.in << " -> " << c.out << ", blocks " << c.block_rows << "x"
       << c.block_cols;
}

const LinearCase kLinearCases[] = {
    {1, 2048, 130},       {1, 6144, 64},          {1, 96, 40},
    {2, 130, 67},         {3, 96, 40, 32, 48},    {4, 257, 65},
    {5, 257, 65, 16, 40}, {7, 512, 128},          {12, 1, 1},
    {37, 300, 200},       {1, 200, 300, 128, 24}, {6, 200, 300, 100, 24},
    {250, 96, 70},        {64, 129, 31, 5, 64},   {13, 576, 256},
    {16, 64, 16},         {17, 320, 129},         {33, 300, 50, 128, 32},
    {600, 160, 70},       {530, 100, 40, 32, 48}, {8, 6144, 20},
    {130, 300, 210, 40},  {70, 260, 150},         {40, 600, 100, 128, 192},
};

TEST_P(Dense, LinearMatchesDoublePrecision) {
  for (const LinearCase& c : kLinearCases) {
    for (DType weight : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
      const Weight w(random, weight, c.out, c.in, c.block_rows, c.block_cols);
      for (DType in : {DType::kF32, DType::kBF16}) {
        Matrix x = Matrix::random(random, in, c.tokens, c.in);
        const Doubles expected = linear_in_double(x, w, c.out);
        for (DType out : {DType::kF32, DType::kBF16}) {
          Matrix y(out, c.tokens, c.out);
          backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
          EXPECT_LE(worst_error(y.values(), expected), kSumTolerance + output_tolerance(out))
              << testing::PrintToString(c) << " " << dtype_name(weight);
          EXPECT_TRUE(y.gaps_untouched());
        }
      }
    }
  }
}

TEST_P(Dense, LinearAccumulates) {
  const Weight w(random, DType::kF8E4M3, 70, 200);
  for (int64_t tokens : {1, 9}) {
    Matrix x = Matrix::random(random, act(), tokens, 200);
    Matrix y = Matrix::random(random, DType::kF32, tokens, 70);
    Doubles expected = linear_in_double(x, w, 70);
    const Doubles before = y.values();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    backend->linear({.x = x.view(), .w = w.view(), .y = y.view(), .accumulate = true});
    EXPECT_LE(worst_error(y.values(), expected), kSumTolerance);
  }
}

TEST_P(Dense, LinearRoundsInputsToBf16InProduction) {
  const Weight w(random, DType::kBF16, 3, 64);
  Matrix exact = Matrix::random(random, DType::kF32, 1, 64);
  Matrix nudged = exact;
  for (int64_t i = 0; i < 64; ++i) {
    nudged.set(0, i, std::nextafter(static_cast<float>(exact.at(0, i)), 100.0f));
  }
  Matrix y(DType::kF32, 1, 3);
  Matrix z(DType::kF32, 1, 3);
  backend->linear({.x = exact.view(), .w = w.view(), .y = y.view()});
  backend->linear({.x = nudged.view(), .w = w.view(), .y = z.view()});
  EXPECT_EQ(y.values() == z.values(), !is_reference());
}

TEST_P(Dense, LinearTakesZerosSubnormalsAndTheLargestCodes) {
  const std::vector<uint8_t> codes = {0x00, 0x80, 0x01, 0x81, 0x07, 0x87, 0x08, 0x88, 0x7e, 0xfe};
  for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 40}) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{70, 300}, {33, 129}, {16, 128}}) {
      Weight w(random, DType::kF8E4M3, out, in);
      const WeightView view = w.view();
      Doubles values;
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          // Rows of one kind too: all zero, all subnormal, all large.
          const uint8_t code = codes[static_cast<size_t>(o % 4 == 0   ? random.below(10)
                                                         : o % 4 == 1 ? random.below(2)
                                                         : o % 4 == 2 ? 2 + random.below(4)
                                                                      : 8 + random.below(2))];
          w.set_code(o, i, code);
          values.push_back(static_cast<double>(e4m3_decode(code)) *
                           view.scale[o / 128 * view.scale_stride + i / 128]);
        }
      }
      Matrix x = Matrix::random(random, act(), tokens, in);
      Matrix y(DType::kF32, tokens, out);
      backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t o = 0; o < out; ++o) {
          double sum = 0;
          double size = 0;  // the tolerance of a row is by its own terms, so that small rows count
          for (int64_t i = 0; i < in; ++i) {
            const double term = x.at(t, i) * values[static_cast<size_t>(o * in + i)];
            sum += term;
            size += std::abs(term);
          }
          ASSERT_NEAR(y.at(t, o), sum, 2e-6 * size) << tokens << " tokens, row " << o;
        }
      }
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

TEST_P(Dense, LinearCarriesNaNOfFp8ToItsRowOnly) {
  for (int64_t tokens : {1, 2, 4, 6, 8, 20}) {
    Weight w(random, DType::kF8E4M3, 40, 100);
    w.set_code(17, 99, 0x7f);
    w.set_code(18, 3, 0xff);
    Matrix x = Matrix::random(random, act(), tokens, 100);
    Matrix y(DType::kF32, tokens, 40);
    backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    for (int64_t o = 0; o < 40; ++o) EXPECT_EQ(std::isnan(y.at(0, o)), o == 17 || o == 18) << o;
  }
}

TEST_P(Dense, LinearDecodesEveryFp8Code) {
  for (int64_t tokens : {1, 2, 4, 5, 7, 20}) {
    Weight w(random, DType::kF8E4M3, 256, 3);
    for (int64_t code = 0; code < 256; ++code) {
      for (int64_t i = 0; i < 3; ++i) w.set_code(code, i, static_cast<uint8_t>(i == 1 ? code : 0));
    }
    Matrix x(act(), tokens, 3);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 3; ++i) x.set(t, i, 1);
    }
    Matrix y(DType::kF32, tokens, 256);
    backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    const Weight again = w;
    for (int64_t code = 0; code < 256; ++code) {
      const int64_t exponent = (code >> 3) & 15;
      const double magnitude = exponent == 0
                                   ? std::ldexp(code & 7, -9)
                                   : std::ldexp(8 + (code & 7), static_cast<int>(exponent) - 10);
      const double scale = again.view().scale[code / 128];
      if ((code & 0x7f) == 0x7f) {
        EXPECT_TRUE(std::isnan(y.at(0, code)));
      } else {
        const double expected = (code >= 128 ? -magnitude : magnitude) * scale;
        EXPECT_NEAR(y.at(tokens - 1, code), expected, std::abs(expected) * 1e-6) << code;
      }
    }
  }
}

TEST_P(Dense, LinearDoesNotDependOnThreads) {
  ThreadPool one(1);
  ThreadPool five(5);
  for (int64_t tokens : {1, 3, 300}) {
    const Weight w(random, DType::kF8E4M3, 333, 500);
    Matrix x = Matrix::random(random, act(), tokens, 500);
    Matrix y(DType::kF32, tokens, 333);
    Matrix z(DType::kF32, tokens, 333);
    with(one)->linear({.x = x.view(), .w = w.view(), .y = y.view()});
    with(five)->linear({.x = x.view(), .w = w.view(), .y = z.view()});
    EXPECT_EQ(y.values(), z.values());
    if (is_reference() || is_cuda()) continue;
    ThreadPool nodes(5, Topology{{{0}, {1}, {0}}});
    Matrix placed(DType::kF32, tokens, 333);
    with(nodes)->linear({.x = x.view(), .w = w.view(), .y = placed.view()});
    EXPECT_EQ(y.values(), placed.values()) << "on three memory nodes";
  }
}

TEST_P(Dense, LinearTakesEmptyBatches) {
  const Weight w(random, DType::kBF16, 3, 8);
  Matrix x(act(), 0, 8);
  Matrix y(DType::kF32, 0, 3);
  backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
}

TEST(Reference, TokensAreIndependentOfTheirBatch) {
  ThreadPool pool(2);
  Random random;
  auto backend = make_reference_backend(pool);
  const Weight w(random, DType::kF8E4M3, 77, 300);
  Matrix x = Matrix::random(random, DType::kF32, 11, 300);
  Matrix y(DType::kF32, 11, 77);
  backend->linear({.x = x.view(), .w = w.view(), .y = y.view()});
  for (int64_t t = 0; t < 11; ++t) {
    Matrix alone(DType::kF32, 1, 77);
    backend->linear({.x = x.view().slice_rows(t, 1), .w = w.view(), .y = alone.view()});
    for (int64_t o = 0; o < 77; ++o) ASSERT_EQ(alone.at(0, o), y.at(t, o));
  }
}

TEST_P(Dense, HeadLinearMatchesDoublePrecision) {
  struct Case {
    int64_t tokens, heads, in, out, gap;
  };
  for (const Case& c : {Case{1, 64, 192, 512, 64}, Case{1, 64, 512, 256, 0}, Case{9, 5, 20, 40, 16},
                        Case{5, 4, 40, 70, 3}, Case{245, 3, 24, 30, 1}}) {
    for (DType weight : {DType::kF32, DType::kBF16}) {
      for (DType out : {DType::kF32, act()}) {
        const Weight w(random, weight, c.heads * c.out, c.in);
        Matrix x = Matrix::random(random, act(), c.tokens, c.heads * (c.in + c.gap));
        Matrix y(out, c.tokens, c.heads * c.out);
        backend->head_linear({.x = x.view(),
                              .x_head_stride = c.in + c.gap,
                              .heads = c.heads,
                              .w = w.view(),
                              .y = y.view(),
                              .y_head_stride = c.out});
        Doubles expected;
        for (int64_t t = 0; t < c.tokens; ++t) {
          for (int64_t r = 0; r < c.heads * c.out; ++r) {
            double sum = 0;
            for (int64_t i = 0; i < c.in; ++i) {
              sum += x.at(t, r / c.out * (c.in + c.gap) + i) * w.at(r, i);
            }
            expected.push_back(sum);
          }
        }
        EXPECT_LE(worst_error(y.values(), expected), kSumTolerance + output_tolerance(out));
        EXPECT_TRUE(y.gaps_untouched());
      }
    }
  }
}

TEST_P(Dense, RmsNormMatchesDoublePrecision) {
  for (int64_t n : {1, 40, 96, 257, 6144}) {
    for (DType out : {DType::kF32, act()}) {
      Matrix x = Matrix::random(random, DType::kF32, 9, n, 3);
      const std::vector<float> weight = random_floats(random, n, 0.1f, 1);
      Matrix y(out, 9, n);
      backend->rms_norm({.x = x.view(), .weight = weight.data(), .eps = 1e-5f, .y = y.view()});
      Doubles expected;
      for (int64_t t = 0; t < 9; ++t) {
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) squares += x.at(t, i) * x.at(t, i);
        for (int64_t i = 0; i < n; ++i) {
          expected.push_back(weight[static_cast<size_t>(i)] * x.at(t, i) /
                             std::sqrt(squares / static_cast<double>(n) + 1e-5f));
        }
      }
      EXPECT_LE(worst_error(y.values(), expected), 1e-6 + output_tolerance(out)) << n;
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

TEST_P(Dense, SiluMulMatchesDoublePrecision) {
  for (int64_t n : {1, 63, 200, 2048}) {
    for (DType out : {DType::kF32, act()}) {
      Matrix gate = Matrix::random(random, DType::kF32, 5, n, 4);
      gate.set(0, 0, -120);
      gate.set(1, 0, 120);
      Matrix up = Matrix::random(random, DType::kF32, 5, n);
      Matrix y(out, 5, n);
      backend->silu_mul({.gate = gate.view(), .up = up.view(), .y = y.view()});
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t i = 0; i < n; ++i) {
          const double expected = gate.at(t, i) / (1 + std::exp(-gate.at(t, i))) * up.at(t, i);
          ASSERT_NEAR(y.at(t, i), expected,
                      std::abs(expected) * (1e-6 + output_tolerance(out)) + 1e-30);
        }
      }
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

TEST_P(Dense, SiluMulKeepsNaN) {
  Matrix gate = Matrix::random(random, DType::kF32, 1, 20);
  Matrix up = Matrix::random(random, DType::kF32, 1, 20);
  gate.set(0, 7, std::nanf(""));
  Matrix y(DType::kF32, 1, 20);
  backend->silu_mul({.gate = gate.view(), .up = up.view(), .y = y.view()});
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(y.at(0, i)), i == 7);
}

TEST_P(Dense, RopeRotatesInterleavedPairs) {
  struct Case {
    int64_t heads, head_dim, offset, rope;
  };
  for (const Case& c : {Case{64, 256, 192, 64}, Case{3, 40, 0, 16}, Case{2, 36, 20, 16}}) {
    std::vector<float> inv_freq;
    for (int64_t i = 0; i < c.rope / 2; ++i) {
      inv_freq.push_back(
          std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(c.rope)));
    }
    const std::vector<int32_t> positions = {0, 1, 777, 3000, 5};
    for (DType out : {DType::kF32, act()}) {
      Matrix x = Matrix::random(random, DType::kF32, 5, c.heads * c.head_dim);
      Matrix y(out, 5, c.heads * c.head_dim);
      RopeParams params{.x = x.view(),
                        .heads = c.heads,
                        .head_dim = c.head_dim,
                        .rope_offset = c.offset,
                        .rope_dim = c.rope,
                        .positions = positions.data(),
                        .inv_freq = inv_freq.data(),
                        .y = y.view()};
      backend->rope(params);
      Doubles expected = x.values();
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t h = 0; h < c.heads; ++h) {
          double* head = expected.data() + (t * c.heads + h) * c.head_dim + c.offset;
          for (int64_t i = 0; i < c.rope / 2; ++i) {
            // The angle itself is fp32 by contract.
            const double angle = static_cast<float>(positions[static_cast<size_t>(t)]) *
                                 inv_freq[static_cast<size_t>(i)];
            const double a = head[2 * i];
            const double b = head[2 * i + 1];
            head[2 * i] = a * std::cos(angle) - b * std::sin(angle);
            head[2 * i + 1] = b * std::cos(angle) + a * std::sin(angle);
          }
        }
      }
      EXPECT_LE(worst_error(y.values(), expected), 1e-6 + output_tolerance(out));
      EXPECT_TRUE(y.gaps_untouched());
      if (out != DType::kF32) continue;
      params.y = x.view();
      backend->rope(params);
      EXPECT_EQ(x.values(), y.values()) << "in place";
    }
  }
}

TEST_P(Dense, EmbedAndGatherCopyRows) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    const Weight table(random, dtype, 50, 97);
    const std::vector<int32_t> ids = {49, 0, 7, 7, 12, 3, 1};
    Matrix y(DType::kF32, 7, 97);
    backend->embed({.ids = ids.data(), .table = table.view(), .y = y.view()});
    for (int64_t t = 0; t < 7; ++t) {
      for (int64_t i = 0; i < 97; ++i) {
        const double expected = table.at(ids[static_cast<size_t>(t)], i);
        ASSERT_NEAR(y.at(t, i), expected, std::abs(expected) * 1e-7);
      }
    }
    const std::vector<int32_t> none = {3, -1};  // nothing was drawn
    Matrix zeros(DType::kF32, 2, 97);
    backend->embed({.ids = none.data(), .table = table.view(), .y = zeros.view()});
    for (int64_t i = 0; i < 97; ++i) {
      ASSERT_EQ(zeros.at(0, i), y.at(5, i));
      ASSERT_EQ(zeros.at(1, i), 0);
    }
    const std::vector<int32_t> rows = {6, 2};
    Matrix z(act(), 2, 97);
    backend->gather_rows({.x = y.view(), .rows = rows.data(), .y = z.view()});
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t i = 0; i < 97; ++i) {
        const double expected = y.at(rows[static_cast<size_t>(r)], i);
        ASSERT_NEAR(z.at(r, i), expected, std::abs(expected) * output_tolerance(act()));
      }
    }
    EXPECT_TRUE(z.gaps_untouched());
  }
}

}  // namespace
}  // namespace longshore::kernels
