// The split of a layer's missing experts: fetch some over the wire, compute the others on the CPU
// where they lie, so that both end together. Pure: no device, no clock.
//
//   time(F) = max(wire(|F|), cpu(the others)),  wire(n) = n S / B_p + overhead,  cpu(M) = sum over
//   M of t_cpu(tokens) + overhead
//
// A fetch costs the same for every expert, so for a given count f the best set is the f that cost
// the CPU most; among equals those that are likeliest to be wanted again, as a fetched expert
// stays. f is an integer: all of 0..m are tried.
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
  double seconds = 0;          // as predicted: max of both sides
};

// max_fetch: slots that can be had. bytes: of one expert.
[[nodiscard]] Split split_misses(std::span<const Miss> misses, const Costs& costs, int64_t bytes,
                                 int64_t max_fetch);

}  // namespace longshore::offload
