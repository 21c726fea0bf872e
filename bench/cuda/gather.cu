// Rows of index_gather, beside cudaMemcpy of the same bytes and a variant whose page-table width is
// fixed when it is compiled.
#include <cstring>

#include <fmt/format.h>

#include "bench/cuda/sequences.h"
#include "kernels/cuda/index_gather/index_gather.cuh"
#include "kernels/cuda/ops.h"

namespace longshore::bench::cuda {
namespace {

using namespace longshore::kernels;

std::string gather_verdict(Harness& harness, const Sequences& s, const IndexGatherParams& p,
                           const std::vector<std::byte>& cache) {
  const auto keys = harness.download(p.keys, s.total * kHeadDim);
  const auto scales = harness.download(p.scales, s.total);
  int64_t row = 0;
  for (size_t b = 0; b < s.lengths.size(); ++b) {
    for (int32_t i = 0; i < s.lengths[b]; ++i, ++row) {
      const int64_t page = s.table[b * static_cast<size_t>(s.width) + static_cast<size_t>(i) / 64];
      const std::byte* from = cache.data() + page * kPageBytes;
      const int64_t slot = i % kPageTokens;
      if (std::memcmp(keys.data() + row * kHeadDim, from + slot * kHeadDim, kHeadDim) != 0 ||
          std::memcmp(&scales[static_cast<size_t>(row)], from + kPageTokens * kHeadDim + slot * 4,
                      4) != 0) {
        return fmt::format("WRONG at sequence {} position {}", b, i);
      }
    }
  }
  return "ok";
}

template <int kWidth>
void gather_case(Harness& harness, const char* name, const std::vector<int32_t>& lengths) {
  std::mt19937 engine(7);
  const Sequences s(lengths, engine);
  const int64_t bytes = s.total * (kHeadDim + 4);
  const int sets = static_cast<int>(std::clamp<int64_t>(kCacheBytes / (2 * bytes) + 1, 2, 64));
  std::vector<IndexGatherParams> calls;
  for (int i = 0; i < sets; ++i) {
    IndexGatherParams p;
    p.cache = {random_pages(harness, s.pages), DType::kF8E4M3, kHeadDim};
    p.sequences = static_cast<int64_t>(s.lengths.size());
    p.page_table = harness.upload(s.table);
    p.page_table_width = s.width;
    p.seq_lens = harness.upload(s.lengths);
    p.keys = harness.allocate<std::byte>(s.total * kHeadDim);
    p.scales = harness.allocate<float>(s.total);
    harness.poison(p.keys, s.total * kHeadDim);
    harness.poison(p.scales, s.total * 4);
    calls.push_back(p);
  }
  const auto call = [&](int i) -> const IndexGatherParams& {
    return calls[static_cast<size_t>(i % sets)];
  };
  Context& context = harness.context();
  const int inner = std::max(sets, 16);
  const double moved = 2 * static_cast<double>(bytes);
  // The same bytes, contiguous, through cudaMemcpy.
  const double copy = harness.seconds(
      [&](int i) {
        (void)cudaMemcpyAsync(call(i).keys, call(i).cache.data, static_cast<size_t>(s.total * 128),
                              cudaMemcpyDeviceToDevice, context.stream());
        (void)cudaMemcpyAsync(call(i).scales, call(i).cache.data, static_cast<size_t>(s.total * 4),
                              cudaMemcpyDeviceToDevice, context.stream());
      },
      inner);
  for (const IndexGatherParams& p : calls) {
    harness.poison(p.keys, s.total * kHeadDim);
    harness.poison(p.scales, s.total * 4);
  }
  const double run_time =
      harness.seconds([&](int i) { kernels::cuda::index_gather(context, call(i)); }, inner);
  const auto cache = harness.download(call(0).cache.data, s.pages * kPageBytes);
  const double ceiling = harness.copy_bytes_per_second();
  harness.row(fmt::format("gather {}: cudaMemcpy of the same bytes", name), copy, moved, ceiling, 0,
              "");
  harness.row(fmt::format("gather {}", name), run_time, moved, ceiling, 0,
              gather_verdict(harness, s, call(0), cache));
  if (kWidth == 0) return;
  const double fixed = harness.seconds(
      [&](int i) {
        const unsigned blocks = static_cast<unsigned>(
            context.multiprocessors() * kernels::cuda::kGatherBlocksPerMultiprocessor);
        const size_t shared = static_cast<size_t>(2 * (call(i).sequences + 1)) * 4;
        kernels::cuda::index_gather_kernel<kWidth>
            <<<blocks, kernels::cuda::kGatherThreads, shared, context.stream()>>>(call(i));
      },
      inner);
  harness.row(fmt::format("gather {}: width {} fixed when compiled", name, kWidth), fixed, moved,
              ceiling, 0, s.width == kWidth ? "ok" : "WRONG width");
}

void gather_rows(Harness& harness) {
  std::mt19937 engine(3);
  gather_case<3168>(harness, "1 x 202752", {202752});
  harness.release();
  gather_case<512>(harness, "32 x 32768", std::vector<int32_t>(32, 32768));
  harness.release();
  gather_case<0>(harness, "256 x 1..8192", ragged(engine, 256, 1, 8192));
  harness.release();
  gather_case<0>(harness, "256 x 1..200", ragged(engine, 256, 1, 200));
  harness.release();
  gather_case<0>(harness, "8 x 4000", std::vector<int32_t>(8, 4000));
}
const bool kGather = add_group("index_gather", gather_rows);

}  // namespace
}  // namespace longshore::bench::cuda
