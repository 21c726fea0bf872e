#include "offload/slots.h"

#include "base/check.h"

namespace longshore::offload {

Slots::Slots(int64_t slots, int64_t experts, double half_life)
    : slots_(static_cast<size_t>(slots)),
      slot_of_(static_cast<size_t>(experts), -1),
      worth_(experts, half_life) {
  free_.reserve(slots_.size());
  for (int64_t slot = slots; slot > 0; --slot) free_.push_back(static_cast<int32_t>(slot - 1));
}

int32_t Slots::begin_load(int32_t expert) {
  LS_CHECK_MSG(find(expert) < 0, "expert {} is in slot {}", expert, find(expert));
  if (free_.empty()) {
    if (worth_.empty()) return -1;
    drop(find(worth_.least()));
  }
  const int32_t slot = free_.back();
  free_.pop_back();
  at(slot) = {State::kLoading, expert, 1};
  slot_of_[static_cast<size_t>(expert)] = slot;
  return slot;
}

int32_t Slots::begin_prefetch(int32_t expert) {
  if (free_.empty() && (worth_.empty() || worth_.of(worth_.least()) >= worth_.of(expert)))
    return -1;
  return begin_load(expert);
}

void Slots::end_load(int32_t slot) {
  LS_CHECK(state(slot) == State::kLoading);
  at(slot).state = State::kResident;
  if (at(slot).pins == 0) worth_.add(at(slot).expert);
}

void Slots::fail_load(int32_t slot) {
  LS_CHECK(state(slot) == State::kLoading);
  release(slot);
}

void Slots::pin(int32_t slot) {
  LS_CHECK(state(slot) != State::kFree);
  if (at(slot).pins++ == 0 && state(slot) == State::kResident) worth_.remove(at(slot).expert);
}

void Slots::unpin(int32_t slot) {
  LS_CHECK_MSG(state(slot) != State::kFree && at(slot).pins > 0, "slot {} is not pinned", slot);
  if (--at(slot).pins == 0 && state(slot) == State::kResident) worth_.add(at(slot).expert);
}

void Slots::drop(int32_t slot) {
  LS_CHECK_MSG(state(slot) == State::kResident && at(slot).pins == 0, "slot {} is in use", slot);
  worth_.remove(at(slot).expert);
  release(slot);
}

void Slots::set_limit(int64_t slots) {
  LS_CHECK_MSG(slots >= 0 && slots <= capacity(), "{} of {} slots", slots, capacity());
  while (limit() > slots) {
    if (free_.empty()) {
      LS_CHECK_MSG(!worth_.empty(), "the limit of slots changes while a step uses them");
      drop(find(worth_.least()));
    }
    closed_.push_back(free_.back());
    free_.pop_back();
  }
  while (limit() < slots) {
    free_.push_back(closed_.back());
    closed_.pop_back();
  }
}

void Slots::release(int32_t slot) {
  slot_of_[static_cast<size_t>(at(slot).expert)] = -1;
  at(slot) = {};
  free_.push_back(slot);
}

Slots::Counts Slots::counts() const {
  Counts counts;
  for (const Slot& slot : slots_) {
    counts.free += slot.state == State::kFree ? 1 : 0;
    counts.loading += slot.state == State::kLoading ? 1 : 0;
    counts.resident += slot.state == State::kResident ? 1 : 0;
    counts.pinned += slot.pins > 0 ? 1 : 0;
  }
  counts.free -= static_cast<int64_t>(closed_.size());
  return counts;
}

void Slots::check_conservation(bool idle) const {
  const Counts now = counts();
  LS_CHECK_MSG(now.free == static_cast<int64_t>(free_.size()) &&
                   now.free + now.loading + now.resident == limit(),
               "{} slots: {} free, {} loading, {} resident", limit(), now.free, now.loading,
               now.resident);
  int64_t held = 0;
  for (size_t expert = 0; expert < slot_of_.size(); ++expert) {
    const int32_t slot = slot_of_[expert];
    const bool candidate = worth_.contains(static_cast<int32_t>(expert));
    if (slot < 0) {
      LS_CHECK_MSG(!candidate, "expert {} has no slot and is a candidate", expert);
      continue;
    }
    ++held;
    const Slot& its = slots_[static_cast<size_t>(slot)];
    LS_CHECK_MSG(its.expert == static_cast<int32_t>(expert), "slot {} holds expert {}, not {}",
                 slot, its.expert, expert);
    LS_CHECK(candidate == (its.state == State::kResident && its.pins == 0));
  }
  LS_CHECK_MSG(held == now.loading + now.resident, "{} experts have slots, {} slots hold one", held,
               now.loading + now.resident);
  if (idle)
    LS_CHECK_MSG(now.loading == 0 && now.pinned == 0, "{} slots are loading and {} pinned at idle",
                 now.loading, now.pinned);
}

}  // namespace longshore::offload
