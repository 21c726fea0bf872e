// The bookkeeping of the device's expert slots: one pool over all (layer, expert) pairs, no quotas
// per layer.
//
// A slot is free, loading, or resident; a loading or resident slot may be pinned by running steps,
// any number of times, and is then not evicted. Expert: index of a (layer, expert) pair, layer *
// experts per layer + expert. Nothing here touches a device: who moves the bytes is in staging.
//
// Ownership: none of the memory. Threading: one thread. Cost: O(log slots) per change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "offload/worth.h"

namespace longshore::offload {

class Slots {
 public:
  enum class State : uint8_t { kFree, kLoading, kResident };

  // slots >= 0; experts: of all layers.
  Slots(int64_t slots, int64_t experts, double half_life);

  // One step of the model has passed.
  void tick() { worth_.tick(); }
  // The router chose the expert for `tokens` tokens.
  void use(int32_t expert, int64_t tokens) { worth_.use(expert, static_cast<double>(tokens)); }

  // The slot that holds the expert or is being filled with it, or -1.
  [[nodiscard]] int32_t find(int32_t expert) const { return slot_of_[static_cast<size_t>(expert)]; }
  [[nodiscard]] State state(int32_t slot) const { return slots_[static_cast<size_t>(slot)].state; }
  // The expert in a slot that is not free.
  [[nodiscard]] int32_t expert(int32_t slot) const {
    return slots_[static_cast<size_t>(slot)].expert;
  }

  // A slot for the expert, which has none: a free one, or the one whose expert is worth least. It
  // is loading and pinned once. -1: every slot is pinned or loading.
  [[nodiscard]] int32_t begin_load(int32_t expert);
  // As begin_load(), but takes no slot from an expert that is worth more: for guesses.
  [[nodiscard]] int32_t begin_prefetch(int32_t expert);
  void end_load(int32_t slot);
  // The copy failed: the slot is free, whoever pinned it.
  void fail_load(int32_t slot);

  void pin(int32_t slot);
  void unpin(int32_t slot);
  // Frees a resident slot that nobody pins.
  void drop(int32_t slot);
  // From now on at most so many slots, of capacity(), are used: what is worth least goes. At idle
  // only.
  void set_limit(int64_t slots);

  [[nodiscard]] const Worth& worth() const { return worth_; }
  [[nodiscard]] int64_t capacity() const { return static_cast<int64_t>(slots_.size()); }
  [[nodiscard]] int64_t limit() const { return capacity() - static_cast<int64_t>(closed_.size()); }
  struct Counts {
    int64_t free = 0;  // closed ones not among them
    int64_t loading = 0;
    int64_t resident = 0;
    int64_t pinned = 0;  // of loading and resident
  };
  [[nodiscard]] Counts counts() const;
  // free + loading + resident = limit, the two maps agree, the candidates for eviction are the
  // resident slots that nobody pins. idle: nothing is loading and nothing pinned.
  void check_conservation(bool idle) const;

 private:
  struct Slot {
    State state = State::kFree;
    int32_t expert = -1;
    int32_t pins = 0;
  };
  [[nodiscard]] Slot& at(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  void release(int32_t slot);

  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  std::vector<int32_t> closed_;   // beyond the limit
  std::vector<int32_t> slot_of_;  // [experts]
  Worth worth_;                   // of experts; candidates: resident and not pinned
};

}  // namespace longshore::offload
