#include "bench/policy_bench.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "offload/replay.h"
#include "offload/routing.h"

namespace longshore::bench {
namespace {

using offload::Policy;

constexpr int32_t kMoeLayers = 75;  // GLM-5.1
constexpr int32_t kExperts = 256;
constexpr int64_t kTopK = 8;

Result<offload::Trace> load_trace(const PolicyBenchOptions& options) {
  if (!options.trace.empty()) return offload::Trace::read(options.trace);
  LS_TRY(offload::Routing routing,
         offload::Routing::parse(options.routing, kMoeLayers, kExperts, options.seed));
  if (routing.is_trace()) return routing.trace();
  return routing.record(options.steps, kTopK);
}

}  // namespace

Result<Report> policy_bench(const PolicyBenchOptions& options) {
  LS_TRY(const offload::Trace trace, load_trace(options));
  Report report;
  report.bench = fmt::format("policy {}", options.trace.empty() ? options.routing : options.trace);
  report.machine = fmt::format("{} MoE layers of {} experts", trace.layers, trace.experts);
  std::vector<double> half_lives = {16, 128, 1024};
  if (options.half_life > 0) half_lives = {options.half_life};
  const int64_t all = int64_t{trace.layers} * trace.experts;
  for (const int64_t percent : {5, 15, 25, 50}) {
    const int64_t slots = all * percent / 100;
    const auto rate = [&](Policy policy, double half_life) {
      return offload::replay(trace, policy, slots, half_life).hit_rate() * 100;
    };
    const double oracle = rate(Policy::kOracle, 0);
    const auto add = [&](const std::string& name, double value) {
      report.rows.push_back({fmt::format("{} % resident, {}", percent, name), value, "%", oracle});
    };
    add("LRU", rate(Policy::kLru, 0));
    add("LFU", rate(Policy::kLfu, 0));
    for (const double half_life : half_lives)
      add(fmt::format("decayed, half-life {} steps", half_life), rate(Policy::kDecayed, half_life));
    add("oracle", oracle);
  }
  const Stopwatch watch;
  const auto counted = offload::replay(trace, Policy::kDecayed, all * 15 / 100, 128);
  report.rows.push_back({"bookkeeping of one expert",
                         watch.seconds() / static_cast<double>(counted.routed) * 1e9, "ns", 0});
  return report;
}

}  // namespace longshore::bench
