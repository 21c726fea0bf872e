#include "offload/split.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace longshore::offload {
namespace {

// A shared expert takes its place for nothing in later steps, a few copies more, and on the CPU
// more time than its share: it has to gain this part of the time, as with few misses it does.
constexpr double kLeastGain = 0.1;

// The first `fetched` of the order over the wire; of the next one `pieces` on the CPU and the rest
// over the wire, unless pieces is 0; what follows on the CPU.
struct Cut {
  size_t fetched = 0;
  int64_t pieces = 0;
  double seconds = std::numeric_limits<double>::infinity();
};

class Search {
 public:
  Search(std::vector<Miss> order, const Costs& costs, const SplitLimits& limits)
      : order_(std::move(order)), costs_(costs), limits_(limits) {}

  [[nodiscard]] Cut best() const {
    double cpu = 0;
    for (const Miss& miss : order_) cpu += costs_.cpu_seconds(miss.tokens);
    const size_t most = std::min(order_.size(), static_cast<size_t>(limits_.max_fetch));
    Cut whole;
    Cut shared;
    for (size_t fetched = 0; fetched <= most; ++fetched) {
      const bool all = fetched == order_.size();
      // The sum of differences can end a hair off zero.
      const double rest = all ? 0 : cpu + costs_.cpu_overhead();
      const Cut here{fetched, 0, std::max(wire(static_cast<double>(fetched)), rest)};
      // Among equals the larger count: what is fetched may be wanted again.
      if (here.seconds <= whole.seconds) whole = here;
      if (all) break;
      cpu -= costs_.cpu_seconds(order_[fetched].tokens);
      if (fetched < most && limits_.pieces > 1) {
        const Cut cut = shared_after(fetched, std::max(cpu, 0.0));
        if (cut.seconds < shared.seconds) shared = cut;
      }
    }
    return shared.seconds < (1 - kLeastGain) * whole.seconds ? shared : whole;
  }

  [[nodiscard]] const std::vector<Miss>& order() const { return order_; }

 private:
  [[nodiscard]] double wire(double experts) const {
    return costs_.wire_seconds(
        static_cast<int64_t>(std::llround(experts * static_cast<double>(limits_.bytes))));
  }

  // behind: seconds of the CPU for what follows the shared one. Both sides are lines in the number
  // of pieces: the best is beside the place where they meet.
  [[nodiscard]] Cut shared_after(size_t fetched, double behind) const {
    const auto pieces = static_cast<double>(limits_.pieces);
    const double piece_on_cpu = costs_.cpu_seconds(order_[fetched].tokens) / pieces;
    const double base = behind + costs_.cpu_overhead();
    const auto whole = static_cast<double>(fetched);
    const double piece_on_wire =
        static_cast<double>(limits_.bytes) / costs_.wire_bytes_per_second() / pieces;
    const double meet = (wire(whole + 1) - base) / (piece_on_cpu + piece_on_wire);
    Cut best;
    for (const double near : {std::floor(meet), std::ceil(meet)}) {
      const double count = std::clamp(near, 1.0, pieces - 1);
      const double seconds =
          std::max(wire(whole + 1 - count / pieces), base + count * piece_on_cpu);
      if (seconds < best.seconds) best = {fetched, static_cast<int64_t>(count), seconds};
    }
    return best;
  }

  std::vector<Miss> order_;
  const Costs& costs_;
  const SplitLimits& limits_;
};

}  // namespace

Split split_misses(std::span<const Miss> misses, const Costs& costs, const SplitLimits& limits) {
  LS_CHECK(limits.bytes > 0 && limits.max_fetch >= 0 && limits.pieces >= 1);
  std::vector<Miss> order(misses.begin(), misses.end());
  std::sort(order.begin(), order.end(), [&](const Miss& a, const Miss& b) {
    const double cost_a = costs.cpu_seconds(a.tokens);
    const double cost_b = costs.cpu_seconds(b.tokens);
    if (cost_a != cost_b) return cost_a > cost_b;
    return a.worth != b.worth ? a.worth > b.worth : a.expert < b.expert;
  });
  const Search search(std::move(order), costs, limits);
  const Cut cut = search.best();
  Split split;
  split.seconds = cut.seconds;
  split.pieces_on_cpu = cut.pieces;
  for (size_t i = 0; i < search.order().size(); ++i) {
    const int32_t expert = search.order()[i].expert;
    if (i == cut.fetched && cut.pieces > 0) {
      split.shared = expert;
    } else {
      (i < cut.fetched ? split.fetch : split.cpu).push_back(expert);
    }
  }
  return split;
}

}  // namespace longshore::offload
