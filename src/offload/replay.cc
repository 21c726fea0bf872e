#include "offload/replay.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "base/check.h"
#include "offload/slots.h"

namespace longshore::offload {
namespace {

int32_t index_of(const Trace& trace, int32_t layer, int32_t expert) {
  return layer * trace.experts + expert;
}

// The pool as it serves: experts of the running layer are pinned. Misses beyond the slots are not
// kept.
ReplayResult replay_slots(const Trace& trace, int64_t slots, double half_life) {
  Slots pool(slots, int64_t{trace.layers} * trace.experts, half_life);
  ReplayResult result;
  std::vector<int32_t> pinned;
  for (const LayerRoutes& record : trace.records) {
    if (record.new_step) pool.tick();
    std::vector<int32_t> misses;
    for (const Routed& routed : record.routed) {
      const int32_t expert = index_of(trace, record.layer, routed.expert);
      pool.use(expert, 1);
      const int32_t slot = pool.find(expert);
      if (slot < 0) {
        misses.push_back(expert);
        continue;
      }
      pool.pin(slot);
      pinned.push_back(slot);
    }
    result.routed += static_cast<int64_t>(record.routed.size());
    result.hits += static_cast<int64_t>(pinned.size());
    for (const int32_t expert : misses) {
      const int32_t slot = pool.begin_load(expert);
      if (slot < 0) break;
      pool.end_load(slot);
      pinned.push_back(slot);
    }
    for (const int32_t slot : pinned) pool.unpin(slot);
    pinned.clear();
  }
  pool.check_conservation(/*idle=*/true);
  return result;
}

// For every use, the index of the record with the expert's next one.
std::vector<std::vector<int64_t>> next_uses(const Trace& trace) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> next(static_cast<size_t>(trace.layers) * static_cast<size_t>(trace.experts),
                            kNever);
  std::vector<std::vector<int64_t>> all(trace.records.size());
  for (size_t i = trace.records.size(); i-- > 0;) {
    for (const Routed& routed : trace.records[i].routed) {
      int64_t& its =
          next[static_cast<size_t>(index_of(trace, trace.records[i].layer, routed.expert))];
      all[i].push_back(its);
      its = static_cast<int64_t>(i);
    }
  }
  return all;
}

ReplayResult replay_oracle(const Trace& trace, int64_t slots) {
  const std::vector<std::vector<int64_t>> next = next_uses(trace);
  std::set<std::pair<int64_t, int32_t>> resident;  // (next use, expert)
  ReplayResult result;
  for (size_t i = 0; i < trace.records.size(); ++i) {
    const LayerRoutes& record = trace.records[i];
    for (size_t r = 0; r < record.routed.size(); ++r) {
      const int32_t expert = index_of(trace, record.layer, record.routed[r].expert);
      ++result.routed;
      // A resident expert's next use is this one.
      if (const auto found = resident.find({static_cast<int64_t>(i), expert});
          found != resident.end()) {
        ++result.hits;
        resident.erase(found);
      } else if (static_cast<int64_t>(resident.size()) == slots) {
        if (resident.empty() || resident.rbegin()->first <= next[i][r]) continue;
        resident.erase(std::prev(resident.end()));
      }
      resident.insert({next[i][r], expert});
    }
  }
  return result;
}

}  // namespace

ReplayResult replay(const Trace& trace, Policy policy, int64_t slots, double half_life) {
  LS_CHECK(slots >= 0);
  switch (policy) {
    case Policy::kLru:
      // So short that any use outweighs all earlier ones.
      return replay_slots(trace, slots, 1.0 / 64);
    case Policy::kLfu:
      return replay_slots(trace, slots, std::numeric_limits<double>::infinity());
    case Policy::kDecayed:
      return replay_slots(trace, slots, half_life);
    case Policy::kOracle:
      return replay_oracle(trace, slots);
  }
  LS_FAIL("policy {}", static_cast<int>(policy));
}

}  // namespace longshore::offload
