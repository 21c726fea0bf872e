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

}  // namespace

Result<void> split_kv_b(const WeightView& kv_b, const GlmConfig& config, DType dtype,
                        AttentionWeights& attention) {
  const int64_t heads = config.num_heads;
  const int64_t nope = config.qk_nope_head_dim;
  const int64_t v = config.v_head_dim;
  const int64_t lora = config.kv_lora_rank;
  LS_CHECK(kv_b.out == heads * (nope + v) && kv_b.in == lora);
  const int64_t uk_bytes = heads * lora * nope * dtype_size(dtype);
  LS_TRY(attention.kv_b,
         device::Buffer::allocate(uk_bytes + heads * v * lora * dtype_size(dtype), "kv_b_proj"));
  std::byte* uk_t = attention.kv_b.data();
  std::byte* uv = uk_t + uk_bytes;
  std::vector<float> row(static_cast<size_t>(lora));
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t n = 0; n < nope; ++n) {
      kernels::scalar::weight_row(kv_b, head * (nope + v) + n, row.data());
      for (int64_t i = 0; i < lora; ++i)
        store(uk_t, dtype, (head * lora + i) * nope + n, row[static_cast<size_t>(i)]);
    }
    for (int64_t n = 0; n < v; ++n) {
      kernels::scalar::weight_row(kv_b, head * (nope + v) + nope + n, row.data());
      kernels::scalar::from_float(row.data(), lora, dtype,
                                  uv + (head * v + n) * lora * dtype_size(dtype));
    }
  }
  attention.uk_t = dense_view(uk_t, dtype, heads * lora, nope);
  attention.uv = dense_view(uv, dtype, heads * v, lora);
  return {};
}

}  // namespace longshore::model
