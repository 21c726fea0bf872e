#include "kernels/draw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace longshore::kernels {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

}  // namespace

bool before(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.first);
  const bool b_nan = std::isnan(b.first);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.first != b.first) return a.first > b.first;
  return a.second < b.second;
}

int32_t place_of_highest(std::span<const float> logits) {
  size_t best = 0;
  float highest = kNever;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > highest) {
      highest = logits[i];
      best = i;
    }
  }
  return static_cast<int32_t>(best);
}

bool all_finite(std::span<const float> logits) {
  // Integer arithmetic without a branch: a float sum could not be vectorised.
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t bad = 0;
  for (const float logit : logits)
    bad |= (std::bit_cast<uint32_t>(logit) & kExponent) == kExponent ? 1U : 0U;
  return bad == 0;
}

void RowDraw::sort_up_to(size_t count) {
  if (count <= sorted_) return;
  // Grows by factors: a draw mostly ends among the first few, and nothing behind them is put in
  // order.
  const size_t end = std::min(candidates_.size(), std::max<size_t>(256, 4 * sorted_));
  const auto at = [&](size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
  if (end < candidates_.size()) std::nth_element(at(sorted_), at(end), candidates_.end(), before);
  std::sort(at(sorted_), at(end), before);
  sorted_ = end;
}

int32_t RowDraw::operator()(std::span<const float> logits, const DrawRule& rule) {
  const int32_t best = place_of_highest(logits);
  const double highest = logits[static_cast<size_t>(best)];
  if (rule.temperature == 0 || !std::isfinite(highest)) return best;
  candidates_.clear();
  sorted_ = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kNever) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  }
  if (rule.top_k > 0 && static_cast<size_t>(rule.top_k) < candidates_.size()) {
    const auto cut = candidates_.begin() + rule.top_k;
    std::nth_element(candidates_.begin(), cut, candidates_.end(), before);
    candidates_.erase(cut, candidates_.end());
  }
  const auto mass = [&](size_t i) {
    // The difference first: a logit over a tiny temperature is infinite.
    return std::exp((static_cast<double>(candidates_[i].first) - highest) / rule.temperature);
  };
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) total += mass(i);
  double kept = total;
  size_t count = candidates_.size();
  if (rule.top_p < 1 || rule.min_p > 0) {
    kept = 0;
    for (count = 0; count < candidates_.size(); ++count) {
      sort_up_to(count + 1);
      const double next = mass(count);
      if (next < rule.min_p || (count > 0 && kept >= rule.top_p * total)) break;
      kept += next;
    }
  }
  double target = rule.uniform * kept;
  for (size_t i = 0; i < count; ++i) {
    sort_up_to(i + 1);
    target -= mass(i);
    if (target < 0) return candidates_[i].second;
  }
  return candidates_[count - 1].second;
}

}  // namespace longshore::kernels
