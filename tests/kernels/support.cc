#include "tests/kernels/support.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"
#include "kernels/format/fp16.h"
#include "tests/kernels/mirror.h"

namespace longshore::kernels {
namespace {

float load(const std::byte* data, DType dtype) {
  uint16_t half;
  float value;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(&value, data, 4);
      return value;
    case DType::kBF16:
      std::memcpy(&half, data, 2);
      return bf16_to_float(half);
    case DType::kF16:
      std::memcpy(&half, data, 2);
      return fp16_to_float(half);
    default:
      return e4m3_decode(static_cast<uint8_t>(*data));
  }
}

void store(std::byte* data, DType dtype, float value) {
  uint16_t half;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(data, &value, 4);
      return;
    case DType::kBF16:
      half = bf16_from_float(value);
      std::memcpy(data, &half, 2);
      return;
    case DType::kF16:
      half = fp16_from_float(value);
      std::memcpy(data, &half, 2);
      return;
    default:
      *data = std::byte{e4m3_from_float(value)};
  }
}

}  // namespace

uint32_t test_seed() {
  const char* seed = std::getenv("LONGSHORE_TEST_SEED");
  return seed != nullptr ? static_cast<uint32_t>(std::strtoul(seed, nullptr, 10)) : 20240917u;
}

Matrix::Matrix(DType dtype, int64_t rows, int64_t cols)
    : dtype_(dtype),
      rows_(rows),
      cols_(cols),
      stride_(cols + 3),
      bytes_(static_cast<size_t>(rows * stride_ * dtype_size(dtype)), std::byte{0xff}) {}

Matrix Matrix::random(Random& random, DType dtype, int64_t rows, int64_t cols, float scale) {
  Matrix m(dtype, rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      m.set(r, c, bf16_to_float(bf16_from_float(random.normal(scale))));
    }
  }
  return m;
}

MatrixView Matrix::view() {
  return {bytes_.data(), dtype_, rows_, cols_, stride_};
}

double Matrix::at(int64_t r, int64_t c) const {
  return load(bytes_.data() + (r * stride_ + c) * dtype_size(dtype_), dtype_);
}

void Matrix::set(int64_t r, int64_t c, float value) {
  store(bytes_.data() + (r * stride_ + c) * dtype_size(dtype_), dtype_, value);
}

Doubles Matrix::values() const {
  Doubles values;
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < cols_; ++c) values.push_back(at(r, c));
  }
  return values;
}

bool Matrix::gaps_untouched() const {
  const int64_t size = dtype_size(dtype_);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t i = (r * stride_ + cols_) * size; i < (r + 1) * stride_ * size; ++i) {
      if (bytes_[static_cast<size_t>(i)] != std::byte{0xff}) return false;
    }
  }
  return true;
}

Weight::Weight(Random& random, DType dtype, int64_t out, int64_t in, int block_rows, int block_cols)
    : dtype_(dtype),
      out_(out),
      in_(in),
      block_rows_(block_rows),
      block_cols_(block_cols),
      bytes_(static_cast<size_t>(1 + out * in * dtype_size(dtype))),
      values_(static_cast<size_t>(out * in)) {
  const bool fp8 = dtype == DType::kF8E4M3;
  const int64_t stride = (in + block_cols - 1) / block_cols;
  const int64_t blocks = (out + block_rows - 1) / block_rows * stride;
  for (int64_t i = 0; fp8 && i < blocks; ++i) {
    scales_.push_back(std::abs(random.normal(0.02f)) + 0.001f);
  }
  for (int64_t i = 0; i < out * in; ++i) {
    std::byte* element = bytes_.data() + 1 + i * dtype_size(dtype);
    if (fp8) {
      auto code = static_cast<uint8_t>(random.below(256));
      if ((code & 0x7f) == 0x7f) code = 0x01;
      // Mostly small codes, as in real weights; every code occurs.
      if (random.below(4) != 0) code = static_cast<uint8_t>((code & 0x80) | (code & 0x3f));
      *element = std::byte{code};
    } else {
      store(element, dtype, random.normal(0.1f));
    }
    const double scale =
        fp8 ? scales_[static_cast<size_t>(i / in / block_rows * stride + i % in / block_cols)] : 1;
    values_[static_cast<size_t>(i)] = load(element, dtype) * scale;
  }
}

WeightView Weight::view() const {
  WeightView w;
  w.data = bytes_.data() + 1;
  w.dtype = dtype_;
  w.out = out_;
  w.in = in_;
  w.scale = scales_.empty() ? nullptr : scales_.data();
  w.scale_stride = scales_.empty() ? 0 : (in_ + block_cols_ - 1) / block_cols_;
  w.block_rows = block_rows_;
  w.block_cols = block_cols_;
  return w;
}

std::vector<float> random_floats(Random& random, int64_t n, float scale, float offset) {
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = random.normal(scale) + offset;
  return values;
}

double worst_error(const Doubles& actual, const Doubles& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double worst = 0;
  double largest = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    if (std::isnan(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

double output_tolerance(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

void BackendTest::SetUp() {
  if (is_reference()) {
    backend = make_reference_backend(pool);
    return;
  }
  if (is_cuda()) {
    auto cuda = make_cuda_backend({});
    if (!cuda) GTEST_SKIP() << "skipped: " << cuda.error().message;
    backend = std::make_unique<MirrorBackend>(std::move(*cuda));
    return;
  }
  auto made = make_cpu_backend(pool, GetParam());
  if (!made)
    GTEST_SKIP() << "instruction set " << GetParam() << " skipped: " << made.error().message;
  backend = std::move(*made);
  EXPECT_EQ(backend->name(), std::string("cpu-") + GetParam());
}

std::unique_ptr<Backend> BackendTest::with(ThreadPool& other) const {
  if (is_reference()) return make_reference_backend(other);
  if (is_cuda()) return std::make_unique<MirrorBackend>(make_cuda_backend({}).value());
  auto made = make_cpu_backend(other, GetParam());
  EXPECT_TRUE(made.has_value());
  return std::move(*made);
}

}  // namespace longshore::kernels
