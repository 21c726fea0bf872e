#include "offload/trace.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "offload/replay.h"

namespace longshore::offload {
namespace {

using testing::HasSubstr;

class File {
 public:
  File() : path_(testing::TempDir() + "longshore_trace_" + std::to_string(getpid())) {}
  ~File() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }
  void write(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }
  [[nodiscard]] std::string bytes() const {
    std::ifstream stream(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

 private:
  std::string path_;
};

// Zipf-distributed experts, 8 of 64 a layer, 4 layers.
Trace zipf(int steps, double exponent) {
  std::mt19937 random(5);
  std::vector<double> weights;
  for (int i = 1; i <= 64; ++i) weights.push_back(std::pow(i, -exponent));
  Trace trace{4, 64, {}};
  for (int step = 0; step < steps; ++step) {
    for (int32_t layer = 0; layer < 4; ++layer) {
      LayerRoutes record{layer, layer == 0, {}};
      std::vector<double> left = weights;
      for (int i = 0; i < 8; ++i) {
        std::discrete_distribution<int32_t> draw(left.begin(), left.end());
        const int32_t expert = draw(random);
        left[static_cast<size_t>(expert)] = 0;
        // Popular experts differ between layers.
        record.routed.push_back({(expert * 7 + layer * 13) % 64, 1 + i % 2});
      }
      trace.records.push_back(std::move(record));
    }
  }
  return trace;
}

void save(const Trace& trace, const std::string& path) {
  auto writer = TraceWriter::create(path, trace.layers, trace.experts);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const LayerRoutes& record : trace.records) writer->add(record.layer, record.routed);
  const auto closed = writer->close();
  ASSERT_TRUE(closed) << closed.error().message;
}

TEST(Trace, ReadsWhatWasWritten) {
  const File file;
  const Trace trace = zipf(20, 1.1);
  save(trace, file.path());
  const auto read = Trace::read(file.path());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->layers, 4);
  EXPECT_EQ(read->experts, 64);
  ASSERT_EQ(read->records.size(), trace.records.size());
  for (size_t i = 0; i < trace.records.size(); ++i) {
    EXPECT_EQ(read->records[i].layer, trace.records[i].layer);
    EXPECT_EQ(read->records[i].new_step, trace.records[i].new_step);
    ASSERT_EQ(read->records[i].routed.size(), trace.records[i].routed.size());
    for (size_t j = 0; j < trace.records[i].routed.size(); ++j) {
      EXPECT_EQ(read->records[i].routed[j].expert, trace.records[i].routed[j].expert);
      EXPECT_EQ(read->records[i].routed[j].tokens, trace.records[i].routed[j].tokens);
    }
  }
}

TEST(Trace, RefusesEveryCutByName) {
  const File file;
  save(zipf(1, 1), file.path());
  const std::string whole = file.bytes();
  constexpr size_t kHeader = 20;
  constexpr size_t kRecord = 8 + 8 * 8;
  for (size_t size = 0; size < whole.size(); ++size) {
    if (size > kHeader && (size - kHeader) % kRecord == 0) continue;
    file.write(whole.substr(0, size));
    const auto read = Trace::read(file.path());
    ASSERT_FALSE(read) << size << " bytes";
    EXPECT_THAT(read.error().message, HasSubstr(file.path()));
  }
}

TEST(Trace, RefusesNumbersOutOfRange) {
  const File file;
  save(zipf(1, 1), file.path());
  const std::string whole = file.bytes();
  for (const size_t at : {8U, 12U, 16U, 20U, 24U, 28U, 32U}) {
    std::string broken = whole;
    broken.replace(at, 4, std::string("\xff\xff\xff\xff", 4));
    file.write(broken);
    EXPECT_FALSE(Trace::read(file.path())) << "byte " << at;
  }
  EXPECT_FALSE(Trace::read("/nowhere/trace"));
  EXPECT_FALSE(TraceWriter::create("/nowhere/trace", 1, 1));
}

TEST(Trace, AFullDiskIsAnError) {
  auto writer = TraceWriter::create("/dev/full", 4, 64);
  ASSERT_TRUE(writer);
  const Trace trace = zipf(100, 1);
  for (const LayerRoutes& record : trace.records) writer->add(record.layer, record.routed);
  const auto closed = writer->close();
  ASSERT_FALSE(closed);
  EXPECT_THAT(closed.error().message, HasSubstr("/dev/full"));
}

TEST(Replay, CountsByHand) {
  // One layer, two slots, one expert a step: 0 1 0 2 0 1.
  Trace trace{1, 3, {}};
  for (const int32_t expert : {0, 1, 0, 2, 0, 1}) trace.records.push_back({0, true, {{expert, 1}}});
  EXPECT_EQ(replay(trace, Policy::kLru, 2, 8).hits, 2);
  EXPECT_EQ(replay(trace, Policy::kLfu, 2, 8).hits, 2);
  EXPECT_EQ(replay(trace, Policy::kOracle, 2, 8).hits, 3) << "keeps 1 instead of loading 2";
  EXPECT_EQ(replay(trace, Policy::kLru, 3, 8).hits, 3);
  EXPECT_EQ(replay(trace, Policy::kLru, 0, 8).hits, 0);
  EXPECT_EQ(replay(trace, Policy::kOracle, 0, 8).hits, 0);
}

TEST(Replay, NoPolicyBeatsTheOracleAndFrequencyBeatsRecencyOnZipf) {
  const Trace trace = zipf(400, 1.1);
  for (const int64_t slots : {16, 64, 128, 256}) {
    const double oracle = replay(trace, Policy::kOracle, slots, 0).hit_rate();
    const double lru = replay(trace, Policy::kLru, slots, 0).hit_rate();
    const double lfu = replay(trace, Policy::kLfu, slots, 0).hit_rate();
    const double decayed = replay(trace, Policy::kDecayed, slots, 64).hit_rate();
    EXPECT_LE(std::max({lru, lfu, decayed}), oracle) << slots;
    if (slots < 256) {
      EXPECT_GT(decayed, lru) << slots;
    }
  }
  EXPECT_EQ(replay(trace, Policy::kLru, 256, 0).hits, replay(trace, Policy::kOracle, 256, 0).hits)
      << "all fit";
}

}  // namespace
}  // namespace longshore::offload
