// Speed of a whole model: prefill and decode against what memory and arithmetic of this machine
// allow.
#pragma once

#include <cstdint>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "bench/timed_backend.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct ModelBenchOptions {
  int64_t context = 512;  // decode: tokens before the measured ones. prefill: tokens of the prompt
  int64_t tokens = 32;    // decode: measured tokens
  int repeats = 5;        // prefill: prompts
  uint64_t seed = 1;      // of the random token ids
};

// decode: tokens between the context and the measured ones, which warm up.
constexpr int64_t kDecodeWarmUp = 4;

// Of the host. What runs on a device is reported without a bound.
struct Ceilings {
  double dram_gbs = 0;
  double fma_gflops = 0;
};

// Token ids are random and forced, so that the work does not depend on what the model would say.
// times: of the timed backend that the model was loaded with, for a row per operation; or null. On
// a marked backend the parts of a step have rows (bench/step_breakdown.h), of as many tokens again.
Result<Report> decode_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                            const Ceilings& ceilings, OperationTimes* times,
                            const CancelToken& cancel);
Result<Report> prefill_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                             const Ceilings& ceilings, const CancelToken& cancel);

}  // namespace longshore::bench
