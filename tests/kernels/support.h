// Random inputs for the tests of operations, and the backends that they run on.
//
// Every test compares a backend with a plain recomputation in double precision from the same
// (already rounded) inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/threads.h"
#include "kernels/backend.h"

namespace longshore::kernels {

using Doubles = std::vector<double>;

// LONGSHORE_TEST_SEED, or a fixed seed.
[[nodiscard]] uint32_t test_seed();

struct Random {
  std::mt19937 engine{test_seed()};
  float normal(float scale = 1) { return std::normal_distribution<float>(0, scale)(engine); }
  // In [0, n).
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine); }
};

// [rows, cols] with a gap after each row. Until written every byte is 0xff, a NaN in every float
// format.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t cols);
  // Normal values, rounded to bf16 whatever the dtype, so that every backend computes from the same
  // numbers.
  static Matrix random(Random& random, DType dtype, int64_t rows, int64_t cols, float scale = 1);

  [[nodiscard]] MatrixView view();
  [[nodiscard]] double at(int64_t r, int64_t c) const;
  void set(int64_t r, int64_t c, float value);
  [[nodiscard]] Doubles values() const;  // [rows * cols]
  [[nodiscard]] bool gaps_untouched() const;
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t cols() const { return cols_; }

 private:
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  std::vector<std::byte> bytes_;
};

// A weight at an odd address, with its exact values.
class Weight {
 public:
  Weight(Random& random, DType dtype, int64_t out, int64_t in, int block_rows = 128,
         int block_cols = 128);
  [[nodiscard]] WeightView view() const;
  [[nodiscard]] double at(int64_t o, int64_t i) const {
    return values_[static_cast<size_t>(o * in_ + i)];
  }
  void set_code(int64_t o, int64_t i, uint8_t code) {
    bytes_[static_cast<size_t>(1 + o * in_ + i)] = std::byte{code};
  }

 private:
  DType dtype_;
  int64_t out_;
  int64_t in_;
  int block_rows_;
  int block_cols_;
  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
  Doubles values_;
};

[[nodiscard]] std::vector<float> random_floats(Random& random, int64_t n, float scale = 1,
                                               float offset = 0);

// Largest |actual - expected| over largest |expected|; infinite where a NaN stands.
[[nodiscard]] double worst_error(const Doubles& actual, const Doubles& expected);

// What a dtype of the output allows beside the backend's own error.
[[nodiscard]] double output_tolerance(DType dtype);

// Parameter: "reference", an instruction set, or "cuda".
class BackendTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;
  [[nodiscard]] bool is_reference() const { return std::string(GetParam()) == "reference"; }
  [[nodiscard]] bool is_cuda() const { return std::string(GetParam()) == "cuda"; }
  [[nodiscard]] DType act() const { return backend->activation_dtype(); }
  // The same backend with another number of threads.
  [[nodiscard]] std::unique_ptr<Backend> with(ThreadPool& other) const;

  ThreadPool pool{3};
  Random random;
  std::unique_ptr<Backend> backend;
};

inline const auto kAllBackends =
    testing::Values("reference", "generic", "avx2", "avx512", "avx512bf16", "amx", "cuda");

}  // namespace longshore::kernels
