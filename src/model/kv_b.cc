#include "model/kv_b.h"

#include <cstring>
#include <vector>

#include "kernels/scalar/rows.h"

namespace longshore::model {
namespace {

void store(std::byte* matrix, DType dtype, int64_t index, float value) {
  kernels::scalar::from_float(&value, 1, dtype, matrix + index * dtype_size(dtype));
}

WeightView dense_view(const std::byte* data, DType dtype, int64_t out, int64_t in) {
  WeightView view;
  view.data = data;
  view.dtype = dtype;
  view.out = out;
  view.in = in;
  return view;
}

// W_UK^T of every head: row (head, i) holds the i-th latent's share in the head's nope columns.
void write_uk_t(const WeightView& kv_b, const GlmConfig& c, DType dtype, std::byte* uk_t) {
  const int64_t nope = c.qk_nope_head_dim;
  const int64_t lora = c.kv_lora_rank;
  std::vector<float> row(static_cast<size_t>(lora));
  for (int64_t head = 0; head < c.num_heads; ++head) {
    for (int64_t n = 0; n < nope; ++n) {
      kernels::scalar::weight_row(kv_b, head * (nope + c.v_head_dim) + n, row.data());
      for (int64_t i = 0; i < lora; ++i)
        store(uk_t, dtype, (head * lora + i) * nope + n, row[static_cast<size_t>(i)]);
    }
  }
}

void write_uv(const WeightView& kv_b, const GlmConfig& c, DType dtype, std::byte* uv) {
  const int64_t v = c.v_head_dim;
  const int64_t lora = c.kv_lora_rank;
  std::vector<float> row(static_cast<size_t>(lora));
  for (int64_t head = 0; head < c.num_heads; ++head) {
    for (int64_t n = 0; n < v; ++n) {
      const int64_t from = head * (c.qk_nope_head_dim + v) + c.qk_nope_head_dim + n;
      kernels::scalar::weight_row(kv_b, from, row.data());
      kernels::scalar::from_float(row.data(), lora, dtype,
                                  uv + (head * v + n) * lora * dtype_size(dtype));
    }
  }
}

}  // namespace

Result<void> split_kv_b(const WeightView& kv_b, const GlmConfig& config, DType dtype,
                        device::Placement& placement, AttentionWeights& attention) {
  const int64_t heads = config.num_heads;
  const int64_t nope = config.qk_nope_head_dim;
  const int64_t v = config.v_head_dim;
  const int64_t lora = config.kv_lora_rank;
  LS_CHECK(kv_b.out == heads * (nope + v) && kv_b.in == lora);
  LS_TRY(const std::byte* uk_t,
         placement.made(heads * lora * nope * dtype_size(dtype),
                        [&](std::byte* to) { write_uk_t(kv_b, config, dtype, to); }));
  LS_TRY(const std::byte* uv,
         placement.made(heads * v * lora * dtype_size(dtype),
                        [&](std::byte* to) { write_uv(kv_b, config, dtype, to); }));
  attention.uk_t = dense_view(uk_t, dtype, heads * lora, nope);
  attention.uv = dense_view(uv, dtype, heads * v, lora);
  return {};
}

}  // namespace longshore::model
