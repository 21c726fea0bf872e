// The split of a layer's missing experts: fetch some over the wire, compute the others on the CPU
// where they lie, so that both end together. Pure: no device, no clock.
//
//   time(F) = max(wire(|F|), cpu(the others)),  wire(n) = n S / B_p + overhead,  cpu(M) = sum over
//   M of t_cpu(tokens) + overhead
//
// A fetch costs the same for every expert, so for a given count f the best set is the f that cost
// the CPU most; among equals those that are likeliest to be wanted again, as a fetched expert
// stays. All f of 0..m are tried, and beside each one more expert that both sides share: its output
// is a sum over its intermediate width, so either side computes a term of it. That helps most where
// few are missing, and a single one would keep one side idle; the shared expert does not stay.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/costs.h"

namespace longshore::offload {

struct Miss {
  int32_t expert = 0;  // index of the (layer, expert) pair
  int64_t tokens = 0;  // routed to it in this step, >= 1
  double worth = 0;    // Worth::of: who stays if it is fetched
};

struct Split {
  std::vector<int32_t> fetch;  // in the order in which to fetch them
  std::vector<int32_t> cpu;    // the others
  int32_t shared = -1;         // none
  int64_t pieces_on_cpu = 0;   // of the shared one
  double seconds = 0;          // as predicted: max of both sides
};

struct SplitLimits {
  int64_t bytes = 0;      // of one expert
  int64_t max_fetch = 0;  // places that can be had
  int64_t pieces = 1;     // that an expert can be cut into; 1: none is shared
};

[[nodiscard]] Split split_misses(std::span<const Miss> misses, const Costs& costs,
                                 const SplitLimits& limits);

}  // namespace longshore::offload
