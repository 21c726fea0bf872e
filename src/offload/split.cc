#include "offload/split.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace longshore::offload {

Split split_misses(std::span<const Miss> misses, const Costs& costs, int64_t bytes,
                   int64_t max_fetch) {
  LS_CHECK(bytes > 0 && max_fetch >= 0);
  std::vector<Miss> order(misses.begin(), misses.end());
  std::sort(order.begin(), order.end(), [&](const Miss& a, const Miss& b) {
    const double cost_a = costs.cpu_seconds(a.tokens);
    const double cost_b = costs.cpu_seconds(b.tokens);
    if (cost_a != cost_b) return cost_a > cost_b;
    return a.worth != b.worth ? a.worth > b.worth : a.expert < b.expert;
  });
  double cpu = 0;
  for (const Miss& miss : order) cpu += costs.cpu_seconds(miss.tokens);

  const size_t most = std::min(order.size(), static_cast<size_t>(max_fetch));
  size_t best = 0;
  double best_seconds = std::numeric_limits<double>::infinity();
  for (size_t fetched = 0; fetched <= most; ++fetched) {
    const double wire = costs.wire_seconds(static_cast<int64_t>(fetched) * bytes);
    // The sum of differences can end a hair off zero.
    const double rest = fetched == order.size() ? 0 : cpu + costs.cpu_overhead();
    const double seconds = std::max(wire, rest);
    // Among equals the larger count: what is fetched may be wanted again.
    if (seconds <= best_seconds) {
      best_seconds = seconds;
      best = fetched;
    }
    if (fetched < order.size()) cpu -= costs.cpu_seconds(order[fetched].tokens);
  }
  Split split;
  split.seconds = best_seconds;
  for (size_t i = 0; i < order.size(); ++i)
    (i < best ? split.fetch : split.cpu).push_back(order[i].expert);
  return split;
}

}  // namespace longshore::offload
