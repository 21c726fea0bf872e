// Eviction policies on a routing trace: hit rates of LRU, LFU, decayed frequency and the oracle at
// several budgets, and what guessing a layer's experts ahead would be worth. No device, no weights,
// no clock.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "bench/report.h"

namespace longshore::bench {

struct PolicyBenchOptions {
  std::string trace;                 // FILE of --record-routing; or
  std::string routing = "zipf:1.1";  // made-up routing of GLM-5.1's shape
  double half_life = 0;              // of the decayed policy, in steps; 0: several
  int64_t steps = 2000;              // of made-up routing
  uint64_t seed = 1;
};

// Rows: hit rate in per cent, bound: the oracle's; and the speed, of the same with nothing brought,
// where one missing expert of every layer is brought ahead that is the right one so often
// (bench/prefetch_replay.h). kUsage: the trace cannot be read.
Result<Report> policy_bench(const PolicyBenchOptions& options);

}  // namespace longshore::bench
