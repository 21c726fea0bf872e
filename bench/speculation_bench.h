// Decoding with the MTP layer's drafts against plain decoding, in turn on one engine.
#pragma once

#include <cstdint>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct SpeculationBenchOptions {
  int64_t tokens = 64;      // output tokens of every request
  int repeats = 12;         // pairs of runs of every case
  double accept_rate = -1;  // forced on every draft; below 0: the model's own
  uint64_t seed = 1;
};

// Cases: the model's own continuations greedily and at temperature 1, and drafts that are all made
// wrong, at batch 1, 4 and 16. Rows of a case: speed-up of the median pair, the ends of its 95 %
// interval (t of the pairs' log ratios), tokens per step, acceptance at every depth. Plain decoding
// and drafting alternate, each pair of runs with the same prompts. The engine speculates and is
// idle.
Result<Report> speculation_bench(session::LoadedModel& loaded,
                                 const SpeculationBenchOptions& options, const CancelToken& cancel);

}  // namespace longshore::bench
