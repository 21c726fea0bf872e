#include "tests/kernels/mirror.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace longshore::kernels {
namespace {

// Bytes from a matrix's first element to the end of its last row's stride, as the tests lay them
// out.
int64_t span_bytes(const ConstMatrixView& m) {
  if (m.rows == 0) return 0;
  return ((m.rows - 1) * m.stride + m.cols) * dtype_size(m.dtype);
}

int64_t pages_of(const BatchView& batch) {
  const int32_t* end = batch.page_table + batch.sequences * batch.page_table_width;
  return batch.sequences == 0 ? 0 : 1 + *std::max_element(batch.page_table, end);
}

}  // namespace

std::byte* MirrorCall::copy(const void* host, int64_t bytes, void* back) {
  if (host == nullptr || bytes == 0) return nullptr;
  auto buffer = device::Buffer::allocate(device_.memory(), bytes, "a test's copy");
  LS_CHECK_MSG(buffer.has_value(), "{}", buffer.error().message);
  std::byte* data = buffer->data();
  buffers_.push_back(std::move(*buffer));
  const Result<void> copied = device_.memory().upload(data, host, bytes);
  LS_CHECK_MSG(copied.has_value(), "{}", copied.error().message);
  if (back != nullptr) outputs_.push_back({back, data, bytes});
  return data;
}

ConstMatrixView MirrorCall::in(ConstMatrixView host) {
  host.data = copy(host.data, span_bytes(host), nullptr);
  return host;
}

MatrixView MirrorCall::out(MatrixView host) {
  host.data = copy(host.data, span_bytes(host), host.data);
  return host;
}

WeightView MirrorCall::in(WeightView host) {
  host.data = copy(host.data, host.bytes(), nullptr);
  host.scale = reinterpret_cast<const float*>(copy(host.scale, host.scale_bytes(), nullptr));
  return host;
}

BatchView MirrorCall::in(BatchView host) {
  host.positions = in(host.positions, host.tokens);
  host.sequence_of = in(host.sequence_of, host.tokens);
  host.page_table = in(host.page_table, host.sequences * host.page_table_width);
  return host;
}

LatentCacheView MirrorCall::out(LatentCacheView host, const BatchView& host_batch) {
  const int64_t bytes = pages_of(host_batch) * kPageTokens * host.token_bytes();
  host.data = copy(host.data, bytes, host.data);
  return host;
}

IndexKeyCacheView MirrorCall::out(IndexKeyCacheView host, const BatchView& host_batch) {
  const int64_t bytes =
      pages_of(host_batch) * IndexKeyCacheView::page_bytes(host.dtype, host.head_dim);
  host.data = copy(host.data, bytes, host.data);
  return host;
}

void MirrorCall::done() {
  const Result<void> ran = device_.synchronize();
  ASSERT_TRUE(ran.has_value()) << ran.error().message;
  for (const Output& output : outputs_) {
    const Result<void> back = device_.memory().download(output.host, output.device, output.bytes);
    ASSERT_TRUE(back.has_value()) << back.error().message;
  }
}

}  // namespace longshore::kernels
