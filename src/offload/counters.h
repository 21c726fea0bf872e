// What the experts cost and where they were computed, since the start.
#pragma once

#include <cstdint>
#include <vector>

namespace longshore::offload {

// Conservation, over the calls whose routes the host saw: routed_experts = hits + fetched +
// computed_on_cpu + shared.
struct ExpertCounters {
  int64_t routes = 0;  // token-expert pairs
  int64_t routes_on_device =
      0;  // of these, never read by the host: everything is resident. Not in what follows
  int64_t routed_experts = 0;   // distinct experts of a layer, summed over calls
  int64_t hits = 0;             // of these, found in a slot of the device, prefetched ones included
  int64_t fetched = 0;          // brought over the wire because a step wanted them
  int64_t computed_on_cpu = 0;  // computed where they lie in host memory
  int64_t shared = 0;           // a part computed there, the rest brought over the wire meanwhile
  int64_t abandoned = 0;        // no longer wanted: a stream was given up in the middle of a layer
  int64_t prefetched = 0;       // brought over the wire ahead of being wanted
  int64_t prefetched_unused = 0;  // of these, overwritten before any step wanted them
  int64_t wire_bytes = 0;         // weights that went over the wire
  int64_t cpu_bytes = 0;          // weights and scales that the CPU read
  double wire_seconds = 0;        // in which the wire was busy, where the device measures it
  // Of streams, in which the wire had no copy that could begin: no block was free, or the host had
  // queued none. Where the device measures it.
  double wire_idle_seconds = 0;
  double cpu_seconds = 0;         // in which the CPU computed experts
  double handshake_seconds = 0;   // that the host waited for a layer's routes
  double policy_seconds = 0;      // of lookups, decisions and bookkeeping
  double queueing_seconds = 0;    // in which the host handed copies to the wire
  double overlapped_seconds = 0;  // of these, while the CPU computed: in cpu_seconds too
  int64_t handshakes = 0;
};

// Steps of few tokens that ran in the pauses of a stream.
struct BesideCounters {
  int64_t steps = 0;
  double seconds = 0;
  int64_t wire_bytes = 0;  // of the stream, that came meanwhile
  ExpertCounters used;     // by the steps
};

// What happened between two readings.
[[nodiscard]] ExpertCounters operator-(const ExpertCounters& later, const ExpertCounters& earlier);

[[nodiscard]] ExpertCounters operator+(const ExpertCounters& a, const ExpertCounters& b);

// The counters and where the experts are, for other threads than the engine's.
struct StoreReport {
  ExpertCounters counters;
  std::vector<uint8_t>
      resident;  // [layers, experts per layer] 1: in a slot of the device; empty without one
  int64_t slots_used_at_most = 0;  // of the device's slots; 0 where all or none are on it
  // [layers, experts per layer] tokens routed to each since the start; empty where the host does
  // not see them: everything is resident.
  std::vector<int64_t> uses;
  double wire_bytes_per_second = 0;  // as decisions take it; 0: nothing is decided
  double cpu_bytes_per_second = 0;   // the same for experts of one token
  // The same two as they were measured before the first step, wire and CPU at once: ceilings.
  double wire_ceiling = 0;
  double cpu_ceiling = 0;
};

}  // namespace longshore::offload
