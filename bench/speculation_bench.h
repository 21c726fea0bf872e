// Decoding with the MTP layer's drafts against plain decoding, in turn on one engine.
#pragma once

#include <cstdint>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "bench/speculation_prompts.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct SpeculationBenchOptions {
  int64_t tokens = 64;           // output tokens of every request at most
  int64_t requests = 16;         // of every run; of groups of `batch` at least four
  int repeats = 12;              // pairs of runs of every case
  std::vector<int64_t> batches;  // sequences at once
  // For the curve: parts of the drafts that count as right, whatever the model says, and parts of
  // its experts that a token shares with the one before it.
  std::vector<double> accept_rates;
  std::vector<double> overlaps;
  uint64_t seed = 1;
};

// Cases: every set greedily and at temperature 1, and with drafts that are all made wrong, at every
// batch. Rows of a case: speed-up in tokens a second of steps in which all sequences decode, as the
// mean of the pairs' log ratios, and the ends of its 95 % interval (Student's t); the same for
// drafting as deep as may be in every step, whose acceptance at every depth and tokens of a step
// follow. Plain decoding, on which drafting leaves no trace, the cost model and the deepest drafts
// take turns, with the same prompts and seeds. The engine speculates and is idle.
Result<Report> speculation_bench(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                                 const SpeculationBenchOptions& options, const CancelToken& cancel);

// The curve: at every forced acceptance, overlap of routing and batch, tokens a second at every
// fixed depth and as the cost model decides, the depth that it takes most often, and its part of
// the best fixed one. Depths and the cost model in turn.
Result<Report> speculation_curve(session::LoadedModel& loaded, const PromptSet& set,
                                 const SpeculationBenchOptions& options, const CancelToken& cancel);

}  // namespace longshore::bench
