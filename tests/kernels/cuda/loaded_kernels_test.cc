// The set of kernels is closed: all of them are loaded when a device is opened, so that no request
// waits for one and none takes memory later.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "device/buffer.h"
#include "device/cuda/context.h"
#include "device/cuda/kernels.h"
#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {
namespace {

using device::cuda::count_kernels;

class LoadedKernels : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Context::create(0, int64_t{64} << 20);
    if (!made) GTEST_SKIP() << "skipped: " << made.error().message;
    context = std::move(*made);
  }
  template <typename T>
  T* upload(const std::vector<T>& host) {
    const auto bytes = static_cast<int64_t>(host.size() * sizeof(T));
    auto buffer = device::Buffer::allocate(context->memory(), bytes, "a test's array");
    LS_CHECK(buffer.has_value());
    LS_CHECK(context->memory().upload(buffer->data(), host.data(), bytes).has_value());
    buffers.push_back(std::move(*buffer));
    return reinterpret_cast<T*>(buffers.back().data());
  }
  [[nodiscard]] int64_t free_bytes() {
    EXPECT_TRUE(context->synchronize().has_value());
    return context->memory().available();
  }
  void draw_all(int64_t rows, bool greedy, const float* logits, const DrawRule* rules,
                int32_t* ids) {
    draw(*context, {.logits = {reinterpret_cast<const std::byte*>(logits), DType::kF32, rows,
                               kLogits, kLogits},
                    .rules = rules,
                    .greedy = greedy,
                    .ids = ids});
  }

  static constexpr int64_t kLogits = 4096;
  static constexpr int64_t kMostRows = 256;
  std::unique_ptr<Context> context;
  std::vector<device::Buffer> buffers;
};

TEST_F(LoadedKernels, AreAllThereWhenADeviceIsOpened) {
  const auto count = count_kernels();
  ASSERT_TRUE(count.has_value()) << count.error().message;
  EXPECT_GT(count->all, 60) << "every file's, with all instances of templates";
  EXPECT_EQ(count->loaded, count->all);
}

TEST_F(LoadedKernels, NoBatchSizeAndNoPageTableWidthTakesMemory) {
  std::vector<float> values(static_cast<size_t>(kMostRows * kLogits));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const float* logits = upload(values);
  const DrawRule rule{
      .temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .min_p = 0.01f, .uniform = 0.5};
  const DrawRule* rules = upload(std::vector<DrawRule>(kMostRows, rule));
  int32_t* ids = upload(std::vector<int32_t>(kMostRows));
  constexpr int64_t kWidest = 4096;
  const int32_t* table = upload(std::vector<int32_t>(kWidest, 0));
  const int32_t* lengths = upload(std::vector<int32_t>{1});
  auto* page = reinterpret_cast<std::byte*>(upload(std::vector<uint8_t>(
      static_cast<size_t>(IndexKeyCacheView::page_bytes(DType::kF8E4M3, 128)))));
  auto* keys = reinterpret_cast<std::byte*>(upload(std::vector<uint8_t>(128)));
  float* scales = upload(std::vector<float>(1));
  const int64_t before = free_bytes();
  for (int64_t rows = 1; rows <= kMostRows; ++rows) {
    draw_all(rows, /*greedy=*/true, logits, nullptr, ids);
    draw_all(rows, /*greedy=*/false, logits, rules, ids);
  }
  for (int64_t width = 1; width <= kWidest; ++width) {
    index_gather(*context, {.cache = {page, DType::kF8E4M3, 128},
                            .sequences = 1,
                            .page_table = table,
                            .page_table_width = width,
                            .seq_lens = lengths,
                            .keys = keys,
                            .scales = scales});
  }
  EXPECT_EQ(free_bytes(), before);
}

}  // namespace
}  // namespace longshore::kernels::cuda
