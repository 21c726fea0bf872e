#include "offload/routing.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/check.h"

namespace longshore::offload {
namespace {

constexpr double kSteepest = 8;

// NAME:NUMBER with a number from 0 to most.
std::optional<double> number_of(std::string_view spec, std::string_view name, double most) {
  if (!spec.starts_with(name)) return std::nullopt;
  const std::string_view number = spec.substr(name.size());
  double value = -1;
  const auto [end, fault] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (fault != std::errc() || end != number.data() + number.size() ||
      !(value >= 0 && value <= most))
    return std::nullopt;
  return value;
}

}  // namespace

Result<Routing> Routing::parse(std::string_view spec, int32_t layers, int32_t experts,
                               uint64_t seed) {
  LS_CHECK(layers >= 1 && experts >= 1);
  Routing routing;
  routing.layers_ = layers;
  routing.experts_ = experts;
  routing.random_.seed(seed);
  constexpr std::string_view kTrace = "trace:";
  if (spec.starts_with(kTrace)) {
    LS_TRY(routing.trace_, Trace::read(std::string(spec.substr(kTrace.size()))));
    if (routing.trace_.layers != layers || routing.trace_.experts != experts) {
      return fail(ErrorKind::kUsage,
                  "--routing {}: recorded from {} MoE layers of {} experts, the model has {} of {}",
                  spec, routing.trace_.layers, routing.trace_.experts, layers, experts);
    }
    return routing;
  }
  const auto overlap = number_of(spec, "overlap:", 1);
  const auto zipf = number_of(spec, "zipf:", kSteepest);
  if (!overlap && !zipf && spec != "uniform") {
    return fail(ErrorKind::kUsage,
                "--routing {}: use uniform, zipf:S with S from 0 to {}, overlap:R with R from 0 to "
                "1, or trace:FILE",
                spec, kSteepest);
  }
  routing.overlap_ = overlap.value_or(0);
  routing.before_.resize(static_cast<size_t>(layers));
  const double exponent = zipf.value_or(0);
  double sum = 0;
  for (int32_t rank = 1; rank <= experts; ++rank) {
    sum += std::pow(rank, -exponent);
    routing.cumulative_.push_back(sum);
  }
  routing.by_rank_.resize(static_cast<size_t>(layers));
  for (std::vector<int32_t>& order : routing.by_rank_) {
    order.resize(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), routing.random_);
  }
  return routing;
}

void Routing::draw(int32_t layer, int64_t tokens, int64_t top_k, int32_t* ids) {
  LS_CHECK(!is_trace() && layer >= 0 && layer < layers_ && top_k <= experts_);
  const std::vector<int32_t>& order = by_rank_[static_cast<size_t>(layer)];
  std::uniform_real_distribution<double> uniform(0, cumulative_.back());
  for (int64_t t = 0; t < tokens; ++t) {
    int32_t* row = ids + t * top_k;
    int64_t kept = 0;
    std::vector<int32_t>& before = before_[static_cast<size_t>(layer)];
    for (const int32_t expert : before) {
      if (kept < top_k && std::bernoulli_distribution(overlap_)(random_)) row[kept++] = expert;
    }
    for (int64_t i = kept; i < top_k;) {
      const auto at = std::lower_bound(cumulative_.begin(), cumulative_.end(), uniform(random_));
      const auto rank = std::min<int64_t>(at - cumulative_.begin(), experts_ - 1);
      const int32_t expert = order[static_cast<size_t>(rank)];
      // Drawn again until new: each token's experts are distinct.
      if (std::find(row, row + i, expert) == row + i) row[i++] = expert;
    }
    if (overlap_ > 0) before.assign(row, row + top_k);
  }
}

Trace Routing::record(int64_t steps, int64_t top_k) {
  Trace trace{layers_, experts_, {}};
  std::vector<int32_t> ids(static_cast<size_t>(top_k));
  for (int64_t step = 0; step < steps; ++step) {
    for (int32_t layer = 0; layer < layers_; ++layer) {
      draw(layer, 1, top_k, ids.data());
      LayerRoutes record{layer, layer == 0, {}};
      for (const int32_t expert : ids) record.routed.push_back({expert, 1});
      trace.records.push_back(std::move(record));
    }
  }
  return trace;
}

}  // namespace longshore::offload
