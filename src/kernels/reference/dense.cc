#include <cstring>
#include <vector>

#include "kernels/format/bf16.h"
#include "kernels/reference/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/scalar/rows.h"
#include "kernels/validate.h"

namespace longshore::kernels {

std::unique_ptr<Backend> make_reference_backend(ThreadPool& pool) {
  return std::make_unique<reference::ReferenceBackend>(pool);
}

namespace reference {
namespace {

using scalar::dot;
using scalar::from_float;
using scalar::to_float;
using scalar::weight_row;

constexpr int64_t kTokenGrain = 4;
constexpr int64_t kRowGrain = 8;     // weight rows that a worker dequantises together
constexpr int64_t kTokenBlock = 64;  // tokens whose activations stay in cache while those rows pass

using Floats = std::vector<float>;

Floats make(int64_t n) {
  return Floats(static_cast<size_t>(n));
}

// [rows, cols] contiguous fp32 of any activations.
Floats matrix_to_float(const ConstMatrixView& m) {
  Floats values = make(m.rows * m.cols);
  for (int64_t r = 0; r < m.rows; ++r) {
    to_float(m.row(r), m.dtype, m.cols, values.data() + r * m.cols);
  }
  return values;
}

void put(const MatrixView& y, int64_t row, int64_t col, float value, bool accumulate) {
  if (y.dtype == DType::kBF16) {
    y.row_as<uint16_t>(row)[col] = bf16_from_float(value);
  } else if (accumulate) {
    y.row_as<float>(row)[col] += value;
  } else {
    y.row_as<float>(row)[col] = value;
  }
}

// y[t, y_col + o - first] (+)= w[o] . x[t], o in [first, end): x [tokens, x_stride] fp32.
void linear_rows(const WeightView& w, int64_t first, int64_t end, const float* x, int64_t x_stride,
                 const MatrixView& y, int64_t y_col, bool accumulate) {
  Floats rows = make((end - first) * w.in);
  for (int64_t o = first; o < end; ++o) weight_row(w, o, rows.data() + (o - first) * w.in);
  for (int64_t block = 0; block < y.rows; block += kTokenBlock) {
    const int64_t block_end = std::min(block + kTokenBlock, y.rows);
    for (int64_t o = 0; o < end - first; ++o) {
      for (int64_t t = block; t < block_end; ++t) {
        put(y, t, y_col + o, dot(rows.data() + o * w.in, x + t * x_stride, w.in), accumulate);
      }
    }
  }
}

}  // namespace

void ReferenceBackend::embed(const EmbedParams& p) {
  validate(p);
  scalar::embed(pool_, p);
}

void ReferenceBackend::gather_rows(const GatherRowsParams& p) {
  validate(p);
  scalar::gather_rows(pool_, p);
}

void ReferenceBackend::rope(const RopeParams& p) {
  validate(p);
  scalar::rope(pool_, p);
}

void ReferenceBackend::rms_norm(const RmsNormParams& p) {
  validate(p);
  pool_.parallel_for(p.x.rows, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    Floats row = make(p.x.cols);
    for (int64_t t = begin; t < end; ++t) {
      scalar::rms_norm_row(p.x.row_as<float>(t), p.weight, p.eps, p.x.cols, row.data());
      from_float(row.data(), p.x.cols, p.y.dtype, p.y.row(t));
    }
  });
}

void ReferenceBackend::linear(const LinearParams& p) {
  validate(p);
  if (p.x.rows == 0) return;
  const Floats x = matrix_to_float(p.x);
  pool_.parallel_for(p.w.out, kRowGrain, [&](int64_t begin, int64_t end, int) {
    linear_rows(p.w, begin, end, x.data(), p.w.in, p.y, begin, p.accumulate);
  });
}

void ReferenceBackend::head_linear(const HeadLinearParams& p) {
  validate(p);
  if (p.x.rows == 0) return;
  const Floats x = matrix_to_float(p.x);
  const int64_t out = p.w.out / p.heads;
  pool_.parallel_for(p.heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t h = begin; h < end; ++h) {
      linear_rows(p.w, h * out, (h + 1) * out, x.data() + h * p.x_head_stride, p.x.cols, p.y,
                  h * p.y_head_stride, false);
    }
  });
}

void ReferenceBackend::silu_mul(const SiluMulParams& p) {
  validate(p);
  pool_.parallel_for(p.y.rows, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    Floats row = make(p.y.cols);
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = p.gate.row_as<float>(t);
      const float* up = p.up.row_as<float>(t);
      for (int64_t i = 0; i < p.y.cols; ++i) {
        row[static_cast<size_t>(i)] = scalar::silu(gate[i]) * up[i];
      }
      from_float(row.data(), p.y.cols, p.y.dtype, p.y.row(t));
    }
  });
}

}  // namespace reference
}  // namespace longshore::kernels
