#include "bench/policy_bench.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

#include "base/clock.h"
#include "bench/prefetch_replay.h"
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

// One expert is brought ahead of every layer (`most` 0: none): with this probability one that is
// wanted, where such a one is missing, else one that is not.
ReplayCounts replay_guesses(const offload::Trace& trace, int64_t slots, int64_t most, double right,
                            Wire wire, int64_t pieces) {
  PrefetchReplay replay(trace.layers, trace.experts, slots, most, wire, {.pieces = pieces});
  std::mt19937 random(1);
  std::uniform_real_distribution<double> unit(0, 1);
  std::uniform_int_distribution<int32_t> any(0, trace.experts - 1);
  std::vector<int32_t> wanted;
  for (const offload::LayerRoutes& record : trace.records) {
    if (record.new_step) replay.begin_step();
    wanted.clear();
    for (const offload::Routed& routed : record.routed) wanted.push_back(routed.expert);
    replay.layer(record.layer, wanted, [&](int32_t layer) {
      constexpr int kTries = 64;  // a step may want all that is missing
      std::vector<int32_t> guess;
      const bool known = std::any_of(wanted.begin(), wanted.end(),
                                     [&](int32_t expert) { return replay.missing(layer, expert); });
      if (known && unit(random) < right) return wanted;
      for (int i = 0; i < kTries && guess.empty(); ++i) {
        const int32_t expert = any(random);
        if (std::find(wanted.begin(), wanted.end(), expert) == wanted.end() &&
            replay.missing(layer, expert))
          guess.push_back(expert);
      }
      return guess;
    });
  }
  return replay.counts();
}

// What bringing an expert ahead of every layer comes to, by how often it is the right one.
void add_guesses(const offload::Trace& trace, Report& report) {
  for (const int64_t percent : {0, 15, 50}) {
    const int64_t slots = int64_t{trace.layers} * trace.experts * percent / 100;
    for (const int64_t pieces : {ReplayCosts().pieces, int64_t{1}}) {
      const ReplayCounts plain = replay_guesses(trace, slots, 0, 0, Wire::kUnlimited, pieces);
      const std::string where =
          fmt::format("{} % resident, {}", percent, pieces == 1 ? "none shared, " : "");
      report.rows.push_back({where + "wire at work", plain.wire_busy() * 100, "%", 0});
      for (const auto& [wire, name] :
           {std::pair{Wire::kQueued, "queued"}, std::pair{Wire::kIdleOnly, "idle wire only"}}) {
        for (const double right : {0.0, 0.25, 0.5, 1.0}) {
          const ReplayCounts counts = replay_guesses(trace, slots, 1, right, wire, pieces);
          report.rows.push_back(
              {fmt::format("{}one a layer ahead, right with {:.2f}: speed, {}", where, right, name),
               plain.seconds / counts.seconds, "", 0});
        }
      }
    }
  }
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
  add_guesses(trace, report);
  const Stopwatch watch;
  const auto counted = offload::replay(trace, Policy::kDecayed, all * 15 / 100, 128);
  report.rows.push_back({"bookkeeping of one expert",
                         watch.seconds() / static_cast<double>(counted.routed) * 1e9, "ns", 0});
  return report;
}

}  // namespace longshore::bench
