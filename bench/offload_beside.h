// What those who decode wait for their tokens while a long prompt is read whose experts stream, and
// what that costs the prompt.
#pragma once

#include <cstdint>
#include <string>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct BesideOptions {
  std::string before;     // the rows' names
  int64_t chunk = 8192;   // tokens of the prompt, read in one pass
  int64_t sequences = 1;  // that decode beside it; 0: none
  // engine::EngineOptions::beside_share; infinite: a step in every pause; negative: one mixed pass
  double share = 1.0 / 12;
  double wire_alone = 0;  // bytes/s, the bound of the wire
  uint64_t seed = 1;
};

// Rows into the report, named by the case. loaded: a model on a device without an engine of its
// own, experts in host memory. kMemory, kDevice, kCancelled.
Result<void> beside_prompts(session::LoadedModel& loaded, const BesideOptions& options,
                            const CancelToken& cancel, Report& report);

}  // namespace longshore::bench
