// The batching engine without sockets: how throughput grows with the batch, what the engine itself
// costs of a step, and what a cached prefix saves.
#pragma once

#include <cstdint>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct ServingBenchOptions {
  int64_t context = 256;  // prompt tokens of every request
  int64_t tokens = 64;    // output tokens of every request
  int repeats = 3;        // of every case; the median counts
  uint64_t seed = 1;      // of the random prompts
};

// Rows: aggregate tokens/s of decoding at batch 1 to max_running with the ratio to as many times
// batch 1; the engine's own share of these steps; time to first token with a cached and an unknown
// prefix of several lengths; the time between tokens of 8 streams alone and beside a long prompt.
// loaded.engine is idle.
Result<Report> serving_bench(session::LoadedModel& loaded, const ServingBenchOptions& options,
                             const CancelToken& cancel);

}  // namespace longshore::bench
