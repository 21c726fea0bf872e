// The wire of a real device: copies beside computing, marks, mapped memory. Its order is tested on
// a fake one (tests/model).
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "device/buffer.h"
#include "device/graphs.h"
#include "kernels/backend.h"
#include "kernels/route_exchange.h"

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

TEST_F(Wire, ClearsAndCopiesColumnsInTheOrderOfTheQueue) {
  constexpr int64_t kRows = 300;
  constexpr int64_t kStride = 2048;
  constexpr int64_t kFirst = 700;  // column
  constexpr int64_t kAgain = 1500;
  constexpr int64_t kWidth = 101;
  constexpr int64_t kBytes = kRows * kStride;
  const device::Buffer host = allocate(device::host_memory(), kBytes);
  std::mt19937 random(3);
  for (int64_t i = 0; i < kBytes; ++i) host.data()[i] = static_cast<std::byte>(random());
  ASSERT_TRUE(wire->pin(host.data(), host.bytes()));
  const device::Buffer on_device = allocate(backend->memory(), kBytes);
  const device::Buffer mapped = allocate(wire->mapped(), kBytes);
  wire->copy(on_device.data(), host.data(), kBytes);
  wire->clear_rows(on_device.data(), 1, kBytes - kStride, kBytes - kStride);
  wire->copy_rows(on_device.data() + kFirst, host.data() + kFirst, kRows - 1, kStride - kFirst,
                  kStride);
  wire->clear_rows(on_device.data() + kAgain, kRows - 1, kWidth, kStride);
  wire->compute_waits_for(wire->copied());
  backend->copy_out(on_device.data(), kBytes, mapped.data());
  wait(wire->computed());
  for (int64_t i = 0; i < kBytes; ++i) {
    const int64_t column = i % kStride;
    const bool cleared = i / kStride < kRows - 1 &&
                         (column < kFirst || (column >= kAgain && column < kAgain + kWidth));
    ASSERT_EQ(mapped.data()[i], cleared ? std::byte{0} : host.data()[i]) << i;
  }
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

TEST_F(Wire, AddsTheHostsSumWhateverItsAlignment) {
  RouteExchange& exchange = *RouteExchange::of(*backend);
  constexpr int64_t kRows = 3, kStride = 6144;
  const device::Buffer word = allocate(wire->mapped(), 64);
  *reinterpret_cast<int32_t*>(word.data()) = RouteExchange::kThere;
  const device::Buffer sum = allocate(wire->mapped(), kRows * kStride * 4);
  const device::Buffer out = allocate(wire->mapped(), kRows * kStride * 4);
  const device::Buffer y = allocate(backend->memory(), kRows * kStride * 4);
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> before(kRows * kStride);
  for (float& value : before) value = normal(random);
  auto* added = reinterpret_cast<float*>(sum.data());
  for (int64_t i = 0; i < kRows * kStride; ++i) added[i] = normal(random);
  for (const auto& [first, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {0, kStride}, {0, 264}, {4, 6140}, {0, 262}, {1, 264}, {3, 1}}) {
    ASSERT_TRUE(backend->memory().upload(y.data(), before.data(), y.bytes()));
    const auto part = [&, first = first, cols = cols](const device::Buffer& buffer) {
      return MatrixView{buffer.data() + first * 4, DType::kF32, kRows, cols, kStride};
    };
    exchange.add_when({.x = part(sum), .y = part(y)},
                      reinterpret_cast<const int32_t*>(word.data()));
    backend->copy_out(y.data(), y.bytes(), out.data());
    wait(wire->computed());
    const auto* got = reinterpret_cast<const float*>(out.data());
    for (int64_t i = 0; i < kRows * kStride; ++i) {
      const int64_t column = i % kStride;
      const bool in = column >= first && column < first + cols;
      ASSERT_EQ(got[i], before[static_cast<size_t>(i)] + (in ? added[i] : 0.0F))
          << first << " " << cols << " " << i;
    }
  }
}

// The host's side of one layer, as often as a captured step is launched.
TEST_F(Wire, ACapturedExchangeMeetsTheHostEveryTime) {
  RouteExchange& exchange = *RouteExchange::of(*backend);
  auto& graphs = dynamic_cast<device::Graphs&>(*backend);
  constexpr int64_t kTokens = 3, kTopK = 5, kHidden = 264, kExperts = 40;
  constexpr int64_t kRoutes = kTokens * kTopK;
  constexpr int64_t kLine = 64;
  constexpr int64_t kXBytes = kTokens * kHidden * 2;
  constexpr auto kTableBytes = static_cast<int64_t>(kExperts * sizeof(ExpertView));
  device::Memory& mapped = wire->mapped();
  const auto take = [&](device::Memory& memory, int64_t bytes, int fill) {
    device::Buffer made = allocate(memory, bytes);
    const std::vector<std::byte> value(static_cast<size_t>(bytes), static_cast<std::byte>(fill));
    LS_CHECK(memory.upload(made.data(), value.data(), bytes).has_value());
    return made;
  };
  const auto ints = [](const device::Buffer& b) { return reinterpret_cast<int32_t*>(b.data()); };
  const device::Buffer words = take(mapped, 4 * kLine, 0);  // the second is not used
  const device::Buffer ids = take(backend->memory(), kRoutes * 4, 0xFF);
  const device::Buffer weights = take(backend->memory(), kRoutes * 4, 0xFF);
  const device::Buffer x = take(backend->memory(), kXBytes, 0xFF);
  const device::Buffer out_ids = take(mapped, kRoutes * 4, 0xEE);
  const device::Buffer out_weights = take(mapped, kRoutes * 4, 0xEE);
  const device::Buffer out_x = take(mapped, kXBytes, 0xEE);
  const device::Buffer decisions = take(mapped, kRoutes * 8, 0);
  const device::Buffer table = take(backend->memory(), kTableBytes, 0x11);
  const device::Buffer to_now = take(backend->memory(), kRoutes * 4, 0xFF);
  const device::Buffer to_later = take(backend->memory(), kRoutes * 4, 0xFF);
  const device::Buffer sum = take(mapped, kTokens * kHidden * 4, 0);
  const device::Buffer y = take(backend->memory(), kTokens * kHidden * 4, 0);
  const auto word = [&](int64_t i) { return ints(words) + i * kLine / 4; };
  const auto set = [&](int64_t i, int32_t value) {
    std::atomic_ref<int32_t>(*word(i)).store(value, std::memory_order_release);
  };

  graphs.begin_capture();
  exchange.publish_routes({.ids = ints(ids),
                           .count = kRoutes,
                           .to_ids = ints(out_ids),
                           .weights = reinterpret_cast<const float*>(weights.data()),
                           .to_weights = reinterpret_cast<float*>(out_weights.data()),
                           .x = {x.data(), DType::kBF16, kTokens, kHidden, kHidden},
                           .to_x = out_x.data(),
                           .ready = word(0)});
  // Never read: the kernels only write places.
  const ExpertBlocks blocks{backend->memory().host() ? nullptr : table.data(), 1000, 300, 700};
  constexpr uint64_t kTag = 77;
  exchange.take_routes({.decisions = reinterpret_cast<const uint64_t*>(decisions.data()),
                        .tag = kTag,
                        .count = kRoutes,
                        .blocks = blocks,
                        .table = reinterpret_cast<ExpertView*>(table.data()),
                        .to_now = ints(to_now),
                        .to_later = ints(to_later)});
  backend->wait_for_host(word(2), 1);
  exchange.add_when({.x = MatrixView{sum.data(), DType::kF32, kTokens, kHidden, kHidden},
                     .y = {y.data(), DType::kF32, kTokens, kHidden, kHidden}},
                    word(3));
  const auto graph = graphs.end_capture();
  ASSERT_TRUE(graph) << graph.error().message;

  std::mt19937 random(5);
  std::vector<float> expected_y(kTokens * kHidden, 0);
  std::vector<ExpertView> expected_table(kExperts);
  std::memset(static_cast<void*>(expected_table.data()), 0x11, kTableBytes);
  for (int round = 0; round < 50; ++round) {
    std::memset(words.data(), 0, 4 * kLine);
    std::memset(decisions.data(), round % 3 == 0 ? 0 : 0x11, kRoutes * 8);
    std::vector<int32_t> sent(kRoutes), sent_weights(kRoutes), sent_x(kXBytes / 4);
    for (auto* values : {&sent, &sent_weights, &sent_x}) {
      for (int32_t& value : *values) value = static_cast<int32_t>(random());
    }
    backend->copy_ints(sent.data(), kRoutes, ints(ids));
    backend->copy_ints(sent_weights.data(), kRoutes, ints(weights));
    backend->copy_ints(sent_x.data(), kXBytes / 4, ints(x));
    graphs.launch(*graph);
    const auto end = wire->computed();
    while (std::atomic_ref<int32_t>(*word(0)).load(std::memory_order_acquire) == 0) {
    }
    EXPECT_FALSE(wire->passed(end));
    EXPECT_EQ(std::memcmp(out_ids.data(), sent.data(), kRoutes * 4), 0);
    EXPECT_EQ(std::memcmp(out_weights.data(), sent_weights.data(), kRoutes * 4), 0);
    EXPECT_EQ(std::memcmp(out_x.data(), sent_x.data(), kXBytes), 0);
    std::vector<int32_t> now(kRoutes, -1), later(kRoutes, -1);
    std::vector<int64_t> block_of(kExperts);
    for (int64_t& block : block_of) block = static_cast<int64_t>(random() % 100000);
    const bool released = round % 7 == 6;
    for (int64_t i = 0; i < kRoutes; ++i) {
      const auto who = static_cast<RouteDecision::Who>(released ? 0 : random() % 3);
      const auto id = static_cast<int32_t>(random() % kExperts);
      const int64_t block = block_of[static_cast<size_t>(id)];
      if (who == RouteDecision::kNow) now[static_cast<size_t>(i)] = id;
      if (who == RouteDecision::kLater) {
        later[static_cast<size_t>(i)] = id;
        ExpertView& entry = expected_table[static_cast<size_t>(id)];
        entry.gate.data = blocks.base + block * blocks.stride;
        entry.up.data = entry.gate.data + blocks.up;
        entry.down.data = entry.gate.data + blocks.down;
      }
      std::atomic_ref<uint64_t>(reinterpret_cast<uint64_t*>(decisions.data())[i])
          .store(RouteDecision::word(released ? RouteDecision::kAny : kTag, who, id, block));
    }
    auto* sums = reinterpret_cast<float*>(sum.data());
    const bool there = random() % 2 == 0;
    for (int64_t i = 0; i < kTokens * kHidden; ++i) {
      sums[i] = static_cast<float>(random() % 1000);
      if (there) expected_y[static_cast<size_t>(i)] += sums[i];
    }
    if (round % 2 == 0) {
      exchange.signal_copied(word(2));
    } else {
      set(2, 1);
    }
    EXPECT_FALSE(wire->passed(end));
    set(3, there ? RouteExchange::kThere : RouteExchange::kNothing);
    ASSERT_TRUE(backend->synchronize());
    std::vector<std::byte> got(kTableBytes);
    ASSERT_TRUE(backend->memory().download(got.data(), table.data(), kTableBytes));
    EXPECT_EQ(std::memcmp(got.data(), expected_table.data(), kTableBytes), 0) << round;
    std::vector<float> got_y(expected_y.size());
    ASSERT_TRUE(backend->memory().download(got_y.data(), y.data(), kTokens * kHidden * 4));
    EXPECT_EQ(got_y, expected_y) << round;
    for (const auto& [on_device, host] : {std::pair(&to_now, &now), std::pair(&to_later, &later)}) {
      std::vector<std::byte> routes(kRoutes * 4);
      ASSERT_TRUE(backend->memory().download(routes.data(), on_device->data(), kRoutes * 4));
      EXPECT_EQ(std::memcmp(routes.data(), host->data(), kRoutes * 4), 0) << round;
    }
  }
}

}  // namespace
}  // namespace longshore::kernels
