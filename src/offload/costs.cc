#include "offload/costs.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace longshore::offload {
namespace {

// One observation may be off by a page fault or a preempted thread: it moves an estimate by this
// factor at most.
constexpr double kMostTrusted = 4;

double trusted(double ratio) {
  return std::clamp(ratio, 1 / kMostTrusted, kMostTrusted);
}

}  // namespace

Costs::Costs(const Start& start, double half_life)
    : weight_(1 - std::exp2(-1 / half_life)),
      wire_rate_(start.wire_bytes_per_second),
      wire_overhead_(start.wire_overhead),
      first_token_(start.cpu_seconds_one_token),
      further_token_(start.cpu_seconds_per_token),
      cpu_overhead_(start.cpu_overhead) {
  LS_CHECK(wire_rate_ > 0 && first_token_ > 0 && half_life > 0);
  LS_CHECK(wire_overhead_ >= 0 && further_token_ >= 0 && cpu_overhead_ >= 0);
  correction_.fill(1);
}

size_t Costs::bucket(int64_t tokens) {
  LS_CHECK(tokens >= 1);
  return std::min<size_t>(std::bit_width(static_cast<uint64_t>(tokens - 1)), kBuckets - 1);
}

double Costs::model(int64_t tokens) const {
  return first_token_ + further_token_ * static_cast<double>(tokens - 1);
}

double Costs::wire_seconds(int64_t bytes) const {
  return bytes == 0 ? 0 : wire_overhead_ + static_cast<double>(bytes) / wire_rate_;
}

double Costs::cpu_seconds(int64_t tokens) const {
  return model(tokens) * correction_[bucket(tokens)];
}

void Costs::saw_wire(int64_t bytes, double seconds) {
  const double transfer = seconds - wire_overhead_;
  if (bytes <= 0 || transfer <= 0) return;
  const double ratio = trusted(static_cast<double>(bytes) / transfer / wire_rate_);
  wire_rate_ *= std::pow(ratio, weight_);
}

void Costs::saw_cpu(std::span<const Load> loads, double seconds) {
  double predicted = 0;
  for (const Load& load : loads) predicted += load.share * cpu_seconds(load.tokens);
  const double measured = seconds - cpu_overhead_;
  if (predicted <= 0 || measured <= 0) return;
  const double ratio = trusted(measured / predicted);
  // Each count is corrected by its share of the predicted time.
  std::array<double, kBuckets> share{};
  for (const Load& load : loads)
    share[bucket(load.tokens)] += load.share * cpu_seconds(load.tokens) / predicted;
  for (size_t i = 0; i < kBuckets; ++i) correction_[i] *= std::pow(ratio, weight_ * share[i]);
}

}  // namespace longshore::offload
