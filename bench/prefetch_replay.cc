#include "bench/prefetch_replay.h"

#include <algorithm>

namespace longshore::bench {
namespace {

// Blocks that experts pass through, as DeviceExpertsOptions has them.
constexpr int64_t kRing = 128;
// An idle wire does not save more than it can bring for the layers that follow at once.
constexpr double kMostIdleCopies = 8;

}  // namespace

PrefetchReplay::PrefetchReplay(int32_t layers, int32_t experts, int64_t slots, int64_t most,
                               Wire wire, const ReplayCosts& costs)
    : experts_(experts),
      most_(most),
      wire_(wire),
      costs_(costs),
      copy_seconds_(static_cast<double>(costs.expert_bytes) / costs.start.wire_bytes_per_second),
      slots_(slots, int64_t{layers} * experts, /*half_life=*/256) {}

bool PrefetchReplay::missing(int32_t layer, int32_t expert) const {
  const int32_t which = index(layer, expert);
  return slots_.find(which) < 0 &&
         std::none_of(ahead_.begin(), ahead_.end(),
                      [which](const Ahead& each) { return each.expert == which; });
}

bool PrefetchReplay::take_wire() {
  switch (wire_) {
    case Wire::kUnlimited:
      return true;
    case Wire::kIdleOnly:
      if (idle_ < copy_seconds_) return false;
      idle_ -= copy_seconds_;
      break;
    case Wire::kQueued:
      if (wire_free_ > now_) return false;
      wire_free_ = std::max(wire_free_, routes_known_) + copy_seconds_;
      break;
  }
  counts_.wire_seconds += copy_seconds_;
  return true;
}

void PrefetchReplay::bring(int32_t layer, const Hint& hint) {
  if (most_ == 0) return;
  for (const int32_t expert : hint(layer)) {
    if (static_cast<int64_t>(ahead_.size()) == most_) break;
    if (!missing(layer, expert)) continue;
    if (!take_wire()) break;
    const int32_t slot = slots_.begin_prefetch(index(layer, expert));
    if (slot >= 0) {
      slots_.end_load(slot);
      pinned_.push_back(slot);
    }

    ahead_.push_back({index(layer, expert), slot, wire_ == Wire::kQueued ? wire_free_ : now_});
  }
  counts_.ahead += static_cast<int64_t>(ahead_.size());
}

void PrefetchReplay::take_slot(int32_t expert) {
  const int32_t slot = slots_.begin_load(expert);
  if (slot < 0) return;
  slots_.end_load(slot);
  pinned_.push_back(slot);
}

double PrefetchReplay::split(std::span<const offload::Miss> misses) {
  offload::Costs::Start start = costs_.start;
  const double backlog = std::max(0.0, wire_free_ - now_);
  start.wire_overhead += backlog;
  const offload::Split split = offload::split_misses(
      misses, offload::Costs(start),
      {.bytes = costs_.expert_bytes, .max_fetch = kRing, .pieces = costs_.pieces});
  double copies = static_cast<double>(split.fetch.size());
  if (split.shared >= 0)
    copies += 1 - static_cast<double>(split.pieces_on_cpu) / static_cast<double>(costs_.pieces);
  if (copies > 0) {
    wire_free_ = std::max(wire_free_, now_) + costs_.start.wire_overhead + copies * copy_seconds_;
    counts_.wire_seconds += copies * copy_seconds_;
  }
  idle_ -= copies * copy_seconds_;
  for (const int32_t expert : split.fetch) take_slot(expert);
  return split.seconds;
}

void PrefetchReplay::layer(int32_t layer, std::span<const int32_t> wanted, const Hint& hint) {
  bring(layer, hint);
  routes_known_ = now_;
  double seconds = 0;
  std::vector<offload::Miss> misses;
  for (const int32_t each : wanted) {
    const int32_t expert = index(layer, each);
    slots_.use(expert, 1);
    const auto ahead = std::find_if(ahead_.begin(), ahead_.end(),
                                    [expert](const Ahead& a) { return a.expert == expert; });
    if (const int32_t slot = slots_.find(expert); slot >= 0) {
      slots_.pin(slot);
      pinned_.push_back(slot);
      if (ahead == ahead_.end()) ++counts_.present;
    } else if (ahead == ahead_.end()) {
      misses.push_back({expert, 1, slots_.worth().of(expert)});
    }
    if (ahead == ahead_.end()) continue;
    ++counts_.used;
    seconds = std::max(seconds, ahead->there - now_);
  }
  for (const Ahead& each : ahead_) {
    const auto used = std::find(wanted.begin(), wanted.end(), each.expert - layer * experts_);
    if (each.slot < 0 && used != wanted.end()) take_slot(each.expert);
  }
  ahead_.clear();
  seconds = std::max(seconds, split(misses)) + costs_.layer_seconds;
  for (const int32_t slot : pinned_) slots_.unpin(slot);
  pinned_.clear();
  now_ += seconds;
  idle_ = std::min(idle_ + seconds, kMostIdleCopies * copy_seconds_);
  counts_.wanted += static_cast<int64_t>(wanted.size());
  counts_.seconds = now_;
  ++counts_.layers;
}

}  // namespace longshore::bench
