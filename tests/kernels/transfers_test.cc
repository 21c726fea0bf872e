// The wire of a real device: copies beside computing, marks, mapped memory. Its order is tested on
// a fake one (tests/model).
#include <cstring>
#include <numeric>

#include <gtest/gtest.h>

#include "device/buffer.h"
#include "kernels/backend.h"

namespace longshore::kernels {
namespace {

class Wire : public testing::Test {
 protected:
  void SetUp() override {
    auto made = make_cuda_backend({});
    if (!made) GTEST_SKIP() << "skipped: " << made.error().message;
    backend = std::move(*made);
    wire = backend->transfers();
    ASSERT_NE(wire, nullptr);
  }

  [[nodiscard]] device::Buffer allocate(device::Memory& memory, int64_t bytes) const {
    auto made = device::Buffer::allocate(memory, bytes, "a test's memory");
    LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
    return std::move(*made);
  }
  void wait(device::Transfers::Mark mark) const {
    while (!wire->passed(mark)) {
    }
  }

  std::unique_ptr<Backend> backend;
  device::Transfers* wire = nullptr;
};

TEST_F(Wire, CopiesPinnedMemoryAndCopiesOutAgain) {
  constexpr int64_t kInts = (int64_t{40} << 20) / 4 + 3;
  const device::Buffer host = allocate(device::host_memory(), kInts * 4);
  auto* values = reinterpret_cast<int32_t*>(host.data());
  std::iota(values, values + kInts, 17);
  ASSERT_TRUE(wire->pin(host.data(), host.bytes()));
  const device::Buffer on_device = allocate(backend->memory(), kInts * 4);
  const device::Buffer mapped = allocate(wire->mapped(), kInts * 4);
  std::memset(mapped.data(), 0xFF, static_cast<size_t>(kInts * 4));
  const auto begin = wire->copied();
  wire->copy(on_device.data(), host.data(), host.bytes());
  const auto end = wire->copied();
  wire->compute_waits_for(end);
  backend->copy_out(on_device.data(), kInts * 4, mapped.data());
  wait(wire->computed());
  EXPECT_EQ(std::memcmp(mapped.data(), host.data(), static_cast<size_t>(kInts * 4)), 0);
  const auto seconds = wire->seconds_between(begin, end);
  ASSERT_TRUE(seconds.has_value());
  EXPECT_GT(*seconds, 1e-5);
  EXPECT_LT(*seconds, 1);
  wire->unpin(host.data());
}

TEST_F(Wire, CopiesOddBytesOut) {
  const device::Buffer on_device = allocate(backend->memory(), 256);
  const device::Buffer mapped = allocate(wire->mapped(), 256);
  std::vector<int32_t> ints(64);
  std::iota(ints.begin(), ints.end(), 1000);
  backend->copy_ints(ints.data(), 64, reinterpret_cast<int32_t*>(on_device.data()));
  for (const int64_t offset : {0, 1, 16, 7}) {
    for (const int64_t bytes : {1, 15, 16, 33, 200}) {
      std::memset(mapped.data(), 0xEE, 256);
      backend->copy_out(on_device.data() + offset, bytes, mapped.data() + offset);
      wait(wire->computed());
      const auto* all = reinterpret_cast<const std::byte*>(ints.data());
      EXPECT_EQ(std::memcmp(mapped.data() + offset, all + offset, static_cast<size_t>(bytes)), 0);
      EXPECT_EQ(mapped.data()[offset + bytes], std::byte{0xEE});
    }
  }
}

TEST_F(Wire, ThousandsOfMarksPass) {
  device::Transfers::Mark last = 0;
  for (int i = 0; i < 20000; ++i) {
    last = i % 2 == 0 ? wire->copied() : wire->computed();
    if (i % 2 == 0) wire->compute_waits_for(last);
  }
  wait(last);
  EXPECT_TRUE(wire->passed(1)) << "an old mark";
  EXPECT_TRUE(backend->synchronize());
}

TEST_F(Wire, RefusesToPinWhatIsPinned) {
  const device::Buffer host = allocate(device::host_memory(), 1 << 20);
  ASSERT_TRUE(wire->pin(host.data(), host.bytes()));
  const auto again = wire->pin(host.data(), host.bytes());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind, ErrorKind::kMemory);
  EXPECT_TRUE(backend->synchronize()) << "a refusal is no fault";
  wire->unpin(host.data());
}

}  // namespace
}  // namespace longshore::kernels
