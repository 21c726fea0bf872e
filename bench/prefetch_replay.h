// Would experts that are brought ahead on a hint make a step of one token shorter? A replay of the
// cache, of the split between wire and CPU and of the wire, without a device: offload's own slots
// and rules, seconds by their costs.
//
// What is brought ahead takes a slot only from what is worth less (Slots::begin_prefetch), else a
// block of the ring, which it leaves unused or changes for a slot once it was used. Between two
// layers' ends lies what the split takes, and what the device needs besides.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "offload/costs.h"
#include "offload/slots.h"
#include "offload/split.h"
#include "offload/trace.h"

namespace longshore::bench {

// GLM-5.1 on machine C of docs/PERF.md: wire and CPU experts at once.
struct ReplayCosts {
  offload::Costs::Start start = {.wire_bytes_per_second = 44e9,
                                 .wire_overhead = 20e-6,
                                 .cpu_seconds_one_token = 0.41e-3,
                                 .cpu_seconds_per_token = 0.02e-3,
                                 .cpu_overhead = 45e-6};
  int64_t expert_bytes = 37'748'736;
  int64_t pieces = 32;             // that a missing expert can be cut into; 1: whole ones only
  double layer_seconds = 0.29e-3;  // of the device beside missing experts
};

enum class Wire : uint8_t {
  // What is brought ahead takes no time: what a guess is worth, whatever could be brought.
  kUnlimited,
  // Copies are queued, whole, where they begin before their layer does: what it misses waits for
  // one
  // that is not done.
  kQueued,
  // What is brought ahead goes in pieces, only while nothing else does, and delays nobody: no
  // schedule does better.
  kIdleOnly,
};

struct ReplayCounts {
  int64_t wanted = 0;   // experts, over all layers of all steps
  int64_t present = 0;  // of these, in a slot without having been brought for this layer
  int64_t used = 0;     // of these, brought for this layer
  int64_t ahead = 0;    // brought ahead
  int64_t layers = 0;   // passed
  double seconds = 0;
  double wire_seconds = 0;  // in which the wire was at work

  [[nodiscard]] double hit_rate() const { return part(present + used, wanted); }
  // Of the missing experts, those that were brought; of those brought, those that were missing.
  [[nodiscard]] double recall() const { return part(used, wanted - present); }
  [[nodiscard]] double precision() const { return part(used, ahead); }
  [[nodiscard]] double ahead_a_layer() const { return part(ahead, layers); }
  [[nodiscard]] double wire_busy() const { return wire_seconds / seconds; }

 private:
  [[nodiscard]] static double part(int64_t n, int64_t of) {
    return of == 0 ? 0 : static_cast<double>(n) / static_cast<double>(of);
  }
};

class PrefetchReplay {
 public:
  // slots >= 0; most: experts that are brought ahead of a layer at most.
  PrefetchReplay(int32_t layers, int32_t experts, int64_t slots, int64_t most, Wire wire,
                 const ReplayCosts& costs = {});

  // Experts of the layer that it may want, likeliest first: asked just before they are brought,
  // while the layer before (of layer 0 the last of the step before) runs.
  using Hint = std::function<std::vector<int32_t>(int32_t layer)>;

  // A new step begins with the next layer().
  void begin_step() { slots_.tick(); }
  // wanted: distinct, within the layer.
  void layer(int32_t layer, std::span<const int32_t> wanted, const Hint& hint);

  // Neither in a slot nor in the ring.
  [[nodiscard]] bool missing(int32_t layer, int32_t expert) const;
  [[nodiscard]] double worth(int32_t layer, int32_t expert) const {
    return slots_.worth().of(index(layer, expert));
  }
  [[nodiscard]] const ReplayCounts& counts() const { return counts_; }

 private:
  [[nodiscard]] int32_t index(int32_t layer, int32_t expert) const {
    return layer * experts_ + expert;
  }
  struct Ahead {
    int32_t expert = 0;  // index
    int32_t slot = 0;    // -1: in the ring
    double there = 0;    // when
  };
  // For one copy ahead; false: there is no time for it.
  bool take_wire();
  void bring(int32_t layer, const Hint& hint);
  // Seconds of the missing ones, which take slots.
  double split(std::span<const offload::Miss> misses);
  void take_slot(int32_t expert);

  int32_t experts_;
  int64_t most_;
  Wire wire_;
  ReplayCosts costs_;
  double copy_seconds_;
  offload::Slots slots_;
  std::vector<Ahead> ahead_;     // of the next layer
  std::vector<int32_t> pinned_;  // slots of the running layer
  double now_ = 0;
  double routes_known_ = 0;  // when the last layer's were
  double wire_free_ = 0;     // when what is queued has passed
  double idle_ = 0;          // seconds of the wire that may still be used, with kIdleOnly
  ReplayCounts counts_;
};

}  // namespace longshore::bench
