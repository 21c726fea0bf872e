// Sequences in shuffled pages, as the rows of attention and of the index lay them out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/cuda/harness.h"
#include "kernels/paged.h"

namespace longshore::bench::cuda {

using kernels::kPageTokens;

constexpr int64_t kHeadDim = 128;
constexpr int64_t kPageBytes = kPageTokens * (kHeadDim + 4);
constexpr int64_t kCacheBytes = int64_t{160} << 20;  // several times the L2 cache

// LONGSHORE_BENCH_CASE chooses cases by a part of their name, for a profiler.
inline bool wanted(const std::string& name) {
  const char* part = std::getenv("LONGSHORE_BENCH_CASE");
  return part == nullptr || name.find(part) != std::string::npos;
}

inline int64_t pages_of(int64_t length) {
  return (length + kPageTokens - 1) / kPageTokens;
}

// Sequences in shuffled pages.
struct Sequences {
  std::vector<int32_t> lengths;
  std::vector<int32_t> table;  // [B, width]
  int64_t width = 0;
  int64_t pages = 0;
  int64_t total = 0;

  Sequences(std::vector<int32_t> given, std::mt19937& engine) : lengths(std::move(given)) {
    for (const int32_t length : lengths) {
      width = std::max(width, pages_of(length));
      pages += pages_of(length);
      total += length;
    }
    std::vector<int32_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), engine);
    table.assign(lengths.size() * static_cast<size_t>(width), 0);
    size_t next = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t i = 0; i < pages_of(lengths[b]); ++i) {
        table[b * static_cast<size_t>(width) + static_cast<size_t>(i)] = order[next++];
      }
    }
  }
};

inline std::vector<int32_t> ragged(std::mt19937& engine, int64_t sequences, int32_t least,
                                   int32_t most) {
  std::vector<int32_t> lengths;
  std::uniform_int_distribution<int32_t> length(least, most);
  for (int64_t b = 0; b < sequences; ++b) lengths.push_back(length(engine));
  return lengths;
}

// Pages of finite keys and scales.
inline std::byte* random_pages(Harness& harness, int64_t pages) {
  auto* data = harness.allocate<std::byte>(pages * kPageBytes);
  harness.fill_fp8(data, pages * kPageBytes);
  // FP8 bytes make poor floats, but none is a NaN of all ones; scales must be finite for scores.
  std::vector<float> scales(kPageTokens);
  for (int i = 0; i < kPageTokens; ++i) scales[static_cast<size_t>(i)] = 0.01f + 0.0003f * i;
  const float* source = harness.upload(scales);
  (void)cudaMemcpy2DAsync(data + kPageTokens * kHeadDim, kPageBytes, source, 0, kPageTokens * 4,
                          static_cast<size_t>(pages), cudaMemcpyDeviceToDevice,
                          harness.context().stream());
  return data;
}

}  // namespace longshore::bench::cuda
