// Rows of the attention and index operations (index_gather has its own file) at GLM-5.1's shapes.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include <fmt/format.h>

#include "bench/cuda/sequences.h"
#include "kernels/cuda/index_select/stages.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sparse_mla/sparse_mla.h"
#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"

namespace longshore::bench::cuda {
namespace {

using namespace longshore::kernels;

constexpr int64_t kIndexHeads = 32;
constexpr int64_t kHeads = 64;
constexpr int64_t kLora = 512;
constexpr int64_t kRope = 64;
constexpr int64_t kTopK = 2048;

// -- batches --

struct DeviceBatch {
  BatchView view;
  std::vector<int32_t> positions;
  int64_t pages = 0;
};

// The last `fresh` tokens of every sequence.
DeviceBatch make_batch(Harness& harness, const Sequences& s, int64_t fresh) {
  DeviceBatch batch;
  std::vector<int32_t> sequence_of;
  for (size_t b = 0; b < s.lengths.size(); ++b) {
    for (int64_t i = s.lengths[b] - fresh; i < s.lengths[b]; ++i) {
      batch.positions.push_back(static_cast<int32_t>(i));
      sequence_of.push_back(static_cast<int32_t>(b));
    }
  }
  batch.pages = s.pages;
  batch.view.tokens = static_cast<int64_t>(batch.positions.size());
  batch.view.sequences = static_cast<int64_t>(s.lengths.size());
  batch.view.positions = harness.upload(batch.positions);
  batch.view.sequence_of = harness.upload(sequence_of);
  batch.view.page_table = harness.upload(s.table);
  batch.view.page_table_width = s.width;
  return batch;
}

ConstMatrixView matrix(const float* data, int64_t rows, int64_t cols) {
  return {reinterpret_cast<const std::byte*>(data), DType::kF32, rows, cols, cols};
}
MatrixView matrix_bf16(void* data, int64_t rows, int64_t cols) {
  return {static_cast<std::byte*>(data), DType::kBF16, rows, cols, cols};
}

const float* frequencies(Harness& harness) {
  std::vector<float> inv_freq;
  for (int i = 0; i < kRope; i += 2) {
    inv_freq.push_back(std::pow(1e4f, -static_cast<float>(i) / static_cast<float>(kRope)));
  }
  return harness.upload(inv_freq);
}

// -- index_select --

// Positions that the fast scores choose and exact scores of bf16 queries would not: the two round
// differently, so a few near the threshold may differ.
std::string select_verdict(Harness& harness, const IndexSelectParams& p, const DeviceBatch& batch) {
  const int64_t tokens = std::min<int64_t>(p.q.rows, 2);
  kernels::cuda::ScorePass pass;
  pass.p = p;
  pass.first = p.q.rows - tokens;
  pass.count = tokens;
  pass.all = true;
  pass.width = batch.view.page_table_width * kPageTokens;
  pass.scores = harness.allocate<float>(tokens * pass.width);
  kernels::cuda::score_any(harness.context(), pass);
  const auto exact = harness.download(pass.scores, tokens * pass.width);
  const auto selected = harness.download(p.selected, p.q.rows * p.top_k);
  const auto counts = harness.download(p.counts, p.q.rows);
  int64_t differing = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t t = pass.first + i;
    const int64_t visible = batch.positions[static_cast<size_t>(t)] + 1;
    const int64_t count = std::min(visible, p.top_k);
    if (counts[static_cast<size_t>(t)] != count) return "WRONG count";
    const float* scores = exact.data() + i * pass.width;
    std::vector<float> sorted(scores, scores + visible);
    std::nth_element(sorted.begin(), sorted.begin() + count - 1, sorted.end(), std::greater<>());
    const float threshold = sorted[static_cast<size_t>(count - 1)];
    const float spread =
        *std::max_element(scores, scores + visible) - *std::min_element(scores, scores + visible);
    for (int64_t k = 0; k < count; ++k) {
      const int32_t s = selected[static_cast<size_t>(t * p.top_k + k)];
      if (s < 0 || s >= visible) return "WRONG position";
      if (k > 0 && selected[static_cast<size_t>(t * p.top_k + k - 1)] >= s) return "WRONG order";
      if (scores[s] < threshold) ++differing;
      if (scores[s] < threshold - 0.01f * spread) return "WRONG choice";
    }
  }
  if (differing > tokens * 20) return fmt::format("WRONG: {} others", differing);
  return "ok";
}

// What reading these pages takes when nothing is computed: a warp a page, in the tables' order.
__global__ void read_pages_kernel(const std::byte* cache, const int32_t* table, int64_t pages,
                                  uint32_t* sink) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * blockDim.x / 32;
  uint32_t sum = 0;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32; i < pages;
       i += warps) {
    const auto* from = reinterpret_cast<const uint4*>(cache + table[i] * kPageBytes);
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const uint4 four = __ldcs(from + k * 32 + lane);
      sum += four.x ^ four.y ^ four.z ^ four.w;
    }
    if (lane < 16) sum += __ldcs(from + 512 + lane).x;
  }
  if (sum == 0x12345678u) *sink = sum;
}

void select_case(Harness& harness, const std::vector<int32_t>& lengths, int64_t fresh,
                 const std::string& name) {
  if (!wanted(name)) return;
  std::mt19937 engine(11);
  const Sequences s(lengths, engine);
  const DeviceBatch batch = make_batch(harness, s, fresh);
  const int64_t tokens = batch.view.tokens;
  const int64_t key_bytes = s.total * (kHeadDim + 4);
  const int sets = static_cast<int>(std::clamp<int64_t>(kCacheBytes / key_bytes + 1, 1, 32));
  std::vector<std::byte*> caches;
  for (int i = 0; i < sets; ++i) caches.push_back(random_pages(harness, s.pages));
  auto* q = harness.allocate<float>(tokens * kIndexHeads * kHeadDim);
  auto* weights = harness.allocate<float>(tokens * kIndexHeads);
  harness.fill_floats(q, tokens * kIndexHeads * kHeadDim, 1);
  harness.fill_floats(weights, tokens * kIndexHeads, 1, 0.3f);
  IndexSelectParams p;
  p.q = matrix(q, tokens, kIndexHeads * kHeadDim);
  p.head_weights = matrix(weights, tokens, kIndexHeads);
  p.weight_scale = 1 / std::sqrt(static_cast<float>(kIndexHeads));
  p.heads = kIndexHeads;
  p.rope_dim = kRope;
  p.inv_freq = frequencies(harness);
  p.batch = batch.view;
  p.top_k = kTopK;
  p.selected = harness.allocate<int32_t>(tokens * kTopK);
  p.counts = harness.allocate<int32_t>(tokens);
  harness.poison(p.selected, tokens * kTopK * 4);
  harness.poison(p.counts, tokens * 4);
  double pairs = 0;
  for (const int32_t position : batch.positions) pairs += position + 1;
  const double operations = pairs * kIndexHeads * kHeadDim * 2;
  const int inner = operations > 1e11 ? 1 : std::max(sets, 8);
  Context& context = harness.context();
  const auto with = [&](int i) {
    IndexSelectParams call = p;
    call.cache = {caches[static_cast<size_t>(i % sets)], DType::kF8E4M3, kHeadDim};
    return call;
  };
  const double whole =
      harness.seconds([&](int i) { kernels::cuda::index_select(context, with(i)); }, inner);
  kernels::cuda::index_select(context, with(0));
  const auto once = harness.download(p.selected, tokens * kTopK);
  std::string verdict = select_verdict(harness, with(0), batch);
  harness.poison(p.selected, tokens * kTopK * 4);
  kernels::cuda::index_select(context, with(0));
  if (harness.download(p.selected, tokens * kTopK) != once) verdict = "WRONG: not deterministic";
  harness.row(fmt::format("index_select {}", name), whole, static_cast<double>(key_bytes),
              harness.read_bytes_per_second(), operations, verdict);

  if (fresh < 16) {
    std::vector<int32_t> order;  // of the pages in use
    for (size_t b = 0; b < s.lengths.size(); ++b) {
      const auto row = s.table.begin() + static_cast<int64_t>(b) * s.width;
      order.insert(order.end(), row, row + pages_of(s.lengths[b]));
    }
    const int32_t* table = harness.upload(order);
    auto* sink = harness.allocate<uint32_t>(1);
    const double reading = harness.seconds(
        [&](int i) {
          read_pages_kernel<<<static_cast<unsigned>(context.multiprocessors() * 2), 512, 0,
                              context.stream()>>>(caches[static_cast<size_t>(i % sets)], table,
                                                  s.pages, sink);
        },
        inner);
    harness.row("  reading the same pages, nothing computed", reading,
                static_cast<double>(s.pages * kPageBytes), harness.read_bytes_per_second(), 0, "");
  }
  const device::cuda::ScratchScope scope(context);
  kernels::cuda::ScorePass pass;
  pass.width = s.width * kPageTokens;
  pass.count = std::min<int64_t>(tokens, (int64_t{1} << 30) / (pass.width * 4));
  pass.first = tokens - pass.count;
  pass.scores = context.scratch<float>(pass.count * pass.width);
  const double share = static_cast<double>(pass.count) / static_cast<double>(tokens);
  pass.p = with(0);
  if (kernels::cuda::takes_score_fp8(context, pass.p)) {
    const double scores = harness.seconds(
        [&](int i) {
          pass.p = with(i);
          kernels::cuda::score_fp8(context, pass);
        },
        inner);
    harness.row(fmt::format("  of it scores, {} of {} tokens", pass.count, tokens), scores,
                fresh < 16 ? static_cast<double>(key_bytes) : 0, harness.read_bytes_per_second(),
                operations * share, "");
  }
  const double top = harness.seconds([&](int) { kernels::cuda::select_top(context, pass); }, inner);
  harness.row(fmt::format("  of it top-k, {} of {} tokens", pass.count, tokens), top,
              pairs * share * 4, harness.read_bytes_per_second(), 0, "");
}

void select_rows(Harness& harness) {
  select_case(harness, {202752}, 1, "decode 1 x 202752");
  harness.release();
  select_case(harness, std::vector<int32_t>(8, 131072), 1, "decode 8 x 131072");
  harness.release();
  select_case(harness, std::vector<int32_t>(64, 32768), 1, "decode 64 x 32768");
  harness.release();
  select_case(harness, std::vector<int32_t>(256, 8192), 1, "decode 256 x 8192");
  harness.release();
  select_case(harness, std::vector<int32_t>(8, 65536), 4, "decode 8 x 65536, 4 tokens each");
  harness.release();
  if (std::getenv("LONGSHORE_BENCH_QUICK") != nullptr) return;
  select_case(harness, {32768}, 2048, "prefill 2048 of 32768");
  harness.release();
  select_case(harness, {131072}, 1024, "prefill 1024 of 131072");
}
const bool kSelect = add_group("index_select", select_rows);

// -- latents --

constexpr DType kLatentTypes[] = {DType::kBF16, DType::kF8E4M3};

// Scales of 2^-7 and the rope part from the codes, of FP8 latents that are random bytes.
__global__ void finish_latents(std::byte* cache) {
  std::byte* token =
      cache + blockIdx.x * LatentCacheView::token_bytes(DType::kF8E4M3, kLora, kRope);
  const int i = static_cast<int>(threadIdx.x);
  const float value = e4m3_decode(static_cast<uint8_t>(token[i])) * 0x1p-7f;
  reinterpret_cast<uint16_t*>(token + LatentCacheView::rope_at(kLora))[i] = bf16_from_float(value);
  auto* scales = reinterpret_cast<float*>(token + LatentCacheView::scales_at(kLora));
  if (i < kLora / kLatentGroup) scales[i] = 0x1p-7f;
}

LatentCacheView latent_cache(Harness& harness, DType dtype, int64_t pages) {
  const int64_t tokens = pages * kPageTokens;
  const int64_t bytes = tokens * LatentCacheView::token_bytes(dtype, kLora, kRope);
  auto* data = harness.allocate<std::byte>(bytes);
  if (dtype == DType::kBF16) {
    harness.fill_bf16(data, bytes / 2);
  } else {
    harness.fill_fp8(data, bytes);
    finish_latents<<<static_cast<unsigned>(tokens), kRope, 0, harness.context().stream()>>>(data);
  }
  return {data, dtype, kLora, kRope};
}

// -- key and latent stores --

void store_rows(Harness& harness) {
  Context& context = harness.context();
  for (const int32_t tokens : {1, 256, 8192}) {
    std::mt19937 engine(13);
    const Sequences s({tokens}, engine);
    const DeviceBatch batch = make_batch(harness, s, tokens);
    std::vector<float> ones(kLora, 1.0f);
    const float* weight = harness.upload(ones);
    auto* k = harness.allocate<float>(tokens * kHeadDim);
    auto* kv = harness.allocate<float>(tokens * (kLora + kRope));
    harness.fill_floats(k, tokens * kHeadDim, 1);
    harness.fill_floats(kv, tokens * (kLora + kRope), 1);
    IndexKeyStoreParams keys;
    keys.k = matrix(k, tokens, kHeadDim);
    keys.rope_dim = kRope;
    keys.norm_weight = weight;
    keys.norm_bias = weight;
    keys.eps = 1e-6f;
    keys.inv_freq = frequencies(harness);
    keys.batch = batch.view;
    keys.cache = {harness.allocate<std::byte>(s.pages * kPageBytes), DType::kF8E4M3, kHeadDim};
    harness.row(fmt::format("index_key_store {}", tokens),
                harness.seconds([&](int) { kernels::cuda::index_key_store(context, keys); }, 16),
                tokens * (kHeadDim * 5.0 + 4), harness.copy_bytes_per_second(), 0, "");
    LatentStoreParams latents;
    latents.kv = matrix(kv, tokens, kLora + kRope);
    latents.kv_lora = kLora;
    latents.rope_dim = kRope;
    latents.norm_weight = weight;
    latents.eps = 1e-6f;
    latents.inv_freq = keys.inv_freq;
    latents.batch = batch.view;
    for (const DType dtype : kLatentTypes) {
      const auto bytes = static_cast<double>(LatentCacheView::token_bytes(dtype, kLora, kRope));
      latents.cache = latent_cache(harness, dtype, s.pages);
      harness.row(fmt::format("latent_store {} {}", dtype_name(dtype), tokens),
                  harness.seconds([&](int) { kernels::cuda::latent_store(context, latents); }, 16),
                  tokens * ((kLora + kRope) * 4.0 + bytes), harness.copy_bytes_per_second(), 0, "");
    }
    harness.release();
  }
}
const bool kStore = add_group("stores", store_rows);

// -- sparse_mla --

std::string mla_verdict(Harness& harness, SparseMlaParams p) {
  const int64_t tokens = std::min<int64_t>(p.o.rows, 4);
  const int64_t values = tokens * kHeads * kLora;
  const auto codes = harness.download(reinterpret_cast<const uint16_t*>(p.o.data), values);
  auto* exact = harness.allocate<float>(values);
  p.o = {reinterpret_cast<std::byte*>(exact), DType::kF32, tokens, kHeads * kLora, kHeads * kLora};
  kernels::cuda::sparse_mla_any(harness.context(), p);
  const auto expected = harness.download(exact, values);
  double worst = 0;
  double largest = 0;
  for (int64_t i = 0; i < values; ++i) {
    const auto j = static_cast<size_t>(i);
    const double value = bf16_to_float(codes[j]);
    if (!std::isfinite(value)) return "WRONG: not finite";
    worst = std::max(worst, std::abs(value - static_cast<double>(expected[j])));
    largest = std::max(largest, std::abs(static_cast<double>(expected[j])));
  }
  return worst / largest < 0x1p-8 ? "ok" : fmt::format("WRONG by {:.4f}", worst / largest);
}

void mla_case(Harness& harness, DType latents, int64_t sequences, int32_t length, int64_t fresh) {
  const std::string name = fmt::format("sparse_mla {} {} x {}, {} tokens each", dtype_name(latents),
                                       sequences, length, fresh);
  if (!wanted(name)) return;
  std::mt19937 engine(17);
  const Sequences s(std::vector<int32_t>(static_cast<size_t>(sequences), length), engine);
  const DeviceBatch batch = make_batch(harness, s, fresh);
  const int64_t tokens = batch.view.tokens;
  auto* q_c = harness.allocate<uint16_t>(tokens * kHeads * kLora);
  auto* q = harness.allocate<uint16_t>(tokens * kHeads * 256);
  auto* o = harness.allocate<uint16_t>(tokens * kHeads * kLora);
  harness.fill_bf16(q_c, tokens * kHeads * kLora);
  harness.fill_bf16(q, tokens * kHeads * 256);
  harness.poison(o, tokens * kHeads * kLora * 2);
  std::vector<int32_t> selected;
  std::vector<int32_t> counts;
  for (const int32_t position : batch.positions) {
    // Ascending, evenly spread with jitter.
    const int64_t visible = position + 1;
    const int64_t count = std::min<int64_t>(visible, kTopK);
    counts.push_back(static_cast<int32_t>(count));
    for (int64_t i = 0; i < kTopK; ++i) {
      const int64_t begin = i * visible / count;
      const int64_t end = (i + 1) * visible / count;
      selected.push_back(i < count ? static_cast<int32_t>(begin + engine() % (end - begin)) : -1);
    }
  }
  SparseMlaParams p;
  p.q_c = matrix_bf16(q_c, tokens, kHeads * kLora);
  p.q = matrix_bf16(q, tokens, kHeads * 256);
  p.q_head_stride = 256;
  p.q_rope_offset = 192;
  p.heads = kHeads;
  p.kv_lora = kLora;
  p.rope_dim = kRope;
  p.scale = 1.0f / 16;
  p.batch = batch.view;
  p.cache = latent_cache(harness, latents, s.pages);
  p.selected = harness.upload(selected);
  p.selected_stride = kTopK;
  p.counts = harness.upload(counts);
  p.o = matrix_bf16(o, tokens, kHeads * kLora);
  double chosen = 0;
  for (const int32_t count : counts) chosen += count;
  Context& context = harness.context();
  const double seconds =
      harness.seconds([&](int) { kernels::cuda::sparse_mla(context, p); }, tokens > 256 ? 1 : 8);
  harness.row(name, seconds, chosen * static_cast<double>(p.cache.token_bytes()),
              harness.read_bytes_per_second(), chosen * kHeads * (2 * kLora + kRope) * 2,
              mla_verdict(harness, p));
  harness.release();
}

void mla_rows(Harness& harness) {
  for (const DType latents : kLatentTypes) {
    mla_case(harness, latents, 1, 202752, 1);
    mla_case(harness, latents, 1, 202752, 4);
    mla_case(harness, latents, 8, 131072, 1);
    mla_case(harness, latents, 32, 65536, 1);
    mla_case(harness, latents, 128, 16384, 1);
    mla_case(harness, latents, 256, 8192, 1);
    if (std::getenv("LONGSHORE_BENCH_QUICK") != nullptr) continue;
    mla_case(harness, latents, 1, 65536, 2048);
  }
}
const bool kMla = add_group("sparse_mla", mla_rows);

// -- copy_ints --

void copy_rows(Harness& harness) {
  Context& context = harness.context();
  for (const int64_t count : {32, 256, 960, 8176, 20000}) {
    std::vector<int32_t> host(static_cast<size_t>(count));
    std::iota(host.begin(), host.end(), 5);
    auto* to = harness.allocate<int32_t>(count);
    harness.poison(to, count * 4);
    const double seconds = harness.seconds(
        [&](int) { kernels::cuda::copy_ints(context, host.data(), count, to); }, 16);
    harness.row(fmt::format("copy_ints {} (in a graph)", count), seconds, 0, 0, 0,
                harness.download(to, count) == host ? "ok" : "WRONG");
  }
}
const bool kCopy = add_group("copy_ints", copy_rows);

}  // namespace
}  // namespace longshore::bench::cuda
