#include <numeric>
#include <optional>
#include <span>

#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/experts/generic.h"
#include "kernels/cuda/experts/stream.h"
#include "kernels/cuda/experts/tile.h"
#include "kernels/cuda/experts/tile_fp8.h"
#include "kernels/cuda/ops.h"
#include "kernels/moe_variants.h"
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

// By the experts' average load, which the sizes alone say.
size_t built_in_variant(const ExpertsParams& p, bool tiles) {
  const int64_t load = ceil_div(p.x.rows * p.top_k, p.num_experts);
  if (load <= 4) return 0;
  if (!tiles) return load <= 12 ? 1 : 2;
  return load <= 16 ? 3 : load <= 50 ? 4 : 5;
}

// Those that can compute these experts.
std::span<const MoeVariant> usable(Context& context, const ExpertsParams& p) {
  if (can_tile(context, p)) return kMoeVariants;
  if (!can_stream(p)) return {};
  return std::span<const MoeVariant>(kMoeVariants).first(kStreamVariants);
}

// Where fast kernels take these experts: which.
std::optional<size_t> choose_variant(Context& context, const ExpertsParams& p, MoeConfigs& configs,
                                     bool w8a8) {
  const std::span<const MoeVariant> variants = usable(context, p);
  if (variants.empty()) return std::nullopt;
  // What is not FP8 has no files.
  if (p.shape.gate.dtype == DType::kF8E4M3) {
    const auto tuned = configs.variant(variants, p.num_experts, p.shape.gate.out,
                                       w8a8 ? "fp8_w8a8" : "fp8_w8a16", p.x.rows);
    if (tuned) return tuned;
  }
  return built_in_variant(p, variants.size() > kStreamVariants);
}

int64_t scratch_bytes(std::optional<size_t> variant, const ExpertsParams& p, int64_t tokens,
                      bool w8a8) {
  if (!variant) return tokens * p.top_k * p.shape.gate.out * 2 + 256;
  const int64_t item = kMoeVariants[*variant].tile.block_m;
  if (*variant < kStreamVariants) return stream_experts_bytes(p, tokens, item);
  return w8a8 ? fp8_tile_experts_bytes(p, tokens, item) : tile_experts_bytes(p, tokens, item);
}

void run(Context& context, std::optional<size_t> variant, const ExpertsParams& p, bool w8a8) {
  if (!variant) return generic_experts(context, p);
  const int64_t item = kMoeVariants[*variant].tile.block_m;
  if (*variant < kStreamVariants) return stream_experts(context, p, item);
  w8a8 ? fp8_tile_experts(context, p, item) : tile_experts(context, p, item);
}

// The most tokens, at most `limit`, that `bytes` allows.
template <typename Bytes>
int64_t fitting(int64_t limit, int64_t left, const Bytes& bytes) {
  while (limit > 1 && bytes(limit) > left) limit = std::max<int64_t>(1, limit * 15 / 16);
  return limit;
}

// In pieces that the scratch memory allows.
void run_all(Context& context, std::optional<size_t> variant, const ExpertsParams& p, bool w8a8) {
  constexpr int64_t kMostItems = 65535;  // of a grid's second dimension
  const int64_t most =
      fitting(std::clamp<int64_t>(kMostItems / p.top_k, 1, p.x.rows), context.scratch_left(),
              [&](int64_t tokens) { return scratch_bytes(variant, p, tokens, w8a8); });
  for (int64_t first = 0; first < p.x.rows; first += most) {
    run(context, variant, slice(p, first, std::min(most, p.x.rows - first)), w8a8);
  }
}

}  // namespace

void experts(Context& context, const ExpertsParams& p, MoeConfigs& configs, bool w8a8) {
  validate(p, Contents::kOnDevice);
  if (p.x.rows * p.top_k == 0) return;
  run_all(context, choose_variant(context, p, configs, w8a8), p, w8a8);
}

std::vector<size_t> expert_variants(Context& context, const ExpertsParams& p) {
  std::vector<size_t> variants(usable(context, p).size());
  std::iota(variants.begin(), variants.end(), size_t{0});
  return variants;
}

void experts_by(Context& context, size_t variant, const ExpertsParams& p, bool w8a8) {
  validate(p, Contents::kOnDevice);
  LS_CHECK(variant < usable(context, p).size());
  if (p.x.rows * p.top_k > 0) run_all(context, variant, p, w8a8);
}

}  // namespace longshore::kernels::cuda
