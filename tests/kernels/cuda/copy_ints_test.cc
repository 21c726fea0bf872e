// How per-step metadata reaches the device.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "device/buffer.h"
#include "device/cuda/context.h"
#include "kernels/cuda/ops.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int64_t kLongest = 20000;
constexpr int64_t kBehind = 64;
constexpr int32_t kPoison = -77;

class CopyInts : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Context::create(0, 1 << 20);
    if (!made) GTEST_SKIP() << "skipped: " << made.error().message;
    context = std::move(*made);
    auto memory = device::Buffer::allocate(context->memory(), poison.size() * 4, "a test's array");
    ASSERT_TRUE(memory.has_value());
    buffer = std::make_unique<device::Buffer>(std::move(*memory));
    std::iota(values.begin(), values.end(), 1000);
  }
  [[nodiscard]] int32_t* device() const { return reinterpret_cast<int32_t*>(buffer->data()); }
  void upload_poison() {
    const auto bytes = static_cast<int64_t>(poison.size() * 4);
    ASSERT_TRUE(context->memory().upload(buffer->data(), poison.data(), bytes).has_value());
  }
  [[nodiscard]] std::vector<int32_t> download() {
    std::vector<int32_t> host(poison.size());
    EXPECT_TRUE(context->synchronize().has_value());
    const auto bytes = static_cast<int64_t>(host.size() * 4);
    EXPECT_TRUE(context->memory().download(host.data(), buffer->data(), bytes).has_value());
    return host;
  }
  // The first `count` values, then poison.
  [[nodiscard]] std::vector<int32_t> expected(int64_t count) const {
    std::vector<int32_t> host = poison;
    std::copy_n(values.begin(), count, host.begin());
    return host;
  }

  std::vector<int32_t> poison = std::vector<int32_t>(kLongest + kBehind, kPoison);
  std::vector<int32_t> values = std::vector<int32_t>(kLongest);
  std::unique_ptr<Context> context;
  std::unique_ptr<device::Buffer> buffer;
};

TEST_F(CopyInts, WritesEveryLengthAndNothingBehind) {
  for (int64_t count = 0; count <= kLongest; ++count) {
    upload_poison();
    copy_ints(*context, values.data(), count, device());
    ASSERT_EQ(download(), expected(count)) << count << " values";
  }
}

TEST_F(CopyInts, LetsTheCallerReuseItsArrayAtOnce) {
  upload_poison();
  std::vector<int32_t> host = values;
  copy_ints(*context, host.data(), kLongest, device());
  std::fill(host.begin(), host.end(), 0);
  EXPECT_EQ(download(), expected(kLongest));
}

TEST_F(CopyInts, IsCapturedInAGraphWithItsValues) {
  for (const int64_t count : {32, 64, 72, 256, 8177, 20000}) {
    std::vector<int32_t> host = values;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(context->stream(), cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    copy_ints(*context, host.data(), count, device());
    ASSERT_EQ(cudaStreamEndCapture(context->stream(), &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    std::fill(host.begin(), host.end(), 0);
    for (int replay = 0; replay < 2; ++replay) {
      upload_poison();
      ASSERT_EQ(cudaGraphLaunch(executable, context->stream()), cudaSuccess);
      ASSERT_EQ(download(), expected(count)) << count << " values";
    }
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
}

}  // namespace
}  // namespace longshore::kernels::cuda
