#include <optional>
#include <span>

#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/experts/generic.h"
#include "kernels/cuda/experts/stream.h"
#include "kernels/cuda/experts/tile.h"
#include "kernels/cuda/experts/tile_fp8.h"
#include "kernels/cuda/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cuda {
namespace {

// Tokens [first, first + count) of a call.
ExpertsParams slice(const ExpertsParams& params, int64_t first, int64_t count) {
  ExpertsParams p = params;
  p.x.data = params.x.row(first);
  p.x.rows = count;
  p.y = params.y.slice_rows(first, count);
  p.ids = params.ids + first * p.top_k;
  p.weights = params.weights + first * p.top_k;
  return p;
}

// The compiled variants, those of can_stream first.
constexpr MoeVariant kVariants[] = {
    {"stream 8", {8, 32, 128, 1, 8, 2}},    {"stream 16", {16, 32, 128, 1, 8, 2}},
    {"stream 32", {32, 32, 128, 1, 8, 2}},  {"wgmma 32", {32, 256, 128, 1, 12, 4}},
    {"wgmma 64", {64, 256, 128, 1, 12, 4}}, {"wgmma 128", {128, 256, 128, 1, 12, 3}},
};
constexpr size_t kStreamVariants = 3;

// By the experts' average load, which the sizes alone say.
size_t built_in_variant(const ExpertsParams& p, bool tiles) {
  const int64_t load = ceil_div(p.x.rows * p.top_k, p.num_experts);
  if (!tiles || load <= 10) return load <= 4 ? 0 : load <= 12 ? 1 : 2;
  return load <= 24 ? 3 : load <= 72 ? 4 : 5;
}

// Where fast kernels take these experts: which.
std::optional<size_t> choose_variant(Context& context, const ExpertsParams& p, MoeConfigs& configs,
                                     bool w8a8) {
  const bool tiles = can_tile(context, p);
  if (!tiles && !can_stream(p)) return std::nullopt;
  const std::span<const MoeVariant> usable(kVariants,
                                           tiles ? std::size(kVariants) : kStreamVariants);
  // What is not FP8 has no files.
  if (p.shape.gate.dtype == DType::kF8E4M3) {
    const auto tuned = configs.variant(usable, p.num_experts, p.shape.gate.out,
                                       w8a8 ? "fp8_w8a8" : "fp8_w8a16", p.x.rows);
    if (tuned) return tuned;
  }
  return built_in_variant(p, tiles);
}

int64_t scratch_bytes(std::optional<size_t> variant, const ExpertsParams& p, int64_t tokens,
                      bool w8a8) {
  if (!variant) return tokens * p.top_k * p.shape.gate.out * 2 + 256;
  const int64_t item = kVariants[*variant].tile.block_m;
  if (*variant < kStreamVariants) return stream_experts_bytes(p, tokens, item);
  return w8a8 ? fp8_tile_experts_bytes(p, tokens, item) : tile_experts_bytes(p, tokens, item);
}

void run(Context& context, std::optional<size_t> variant, const ExpertsParams& p, bool w8a8) {
  if (!variant) return generic_experts(context, p);
  const int64_t item = kVariants[*variant].tile.block_m;
  if (*variant < kStreamVariants) return stream_experts(context, p, item);
  w8a8 ? fp8_tile_experts(context, p, item) : tile_experts(context, p, item);
}

// The most tokens, at most `limit`, that `bytes` allows.
template <typename Bytes>
int64_t fitting(int64_t limit, int64_t left, const Bytes& bytes) {
  while (limit > 1 && bytes(limit) > left) limit = std::max<int64_t>(1, limit * 15 / 16);
  return limit;
}

}  // namespace

void experts(Context& context, const ExpertsParams& p, MoeConfigs& configs, bool w8a8) {
  validate(p, Contents::kOnDevice);
  if (p.x.rows * p.top_k == 0) return;
  constexpr int64_t kMostItems = 65535;  // of a grid's second dimension
  const std::optional<size_t> variant = choose_variant(context, p, configs, w8a8);
  const int64_t most =
      fitting(std::clamp<int64_t>(kMostItems / p.top_k, 1, p.x.rows), context.scratch_left(),
              [&](int64_t tokens) { return scratch_bytes(variant, p, tokens, w8a8); });
  for (int64_t first = 0; first < p.x.rows; first += most) {
    run(context, variant, slice(p, first, std::min(most, p.x.rows - first)), w8a8);
  }
}

}  // namespace longshore::kernels::cuda
