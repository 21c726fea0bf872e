// Decoding and prefill with experts beyond the device's memory, against what the wire, the CPU and
// the split between them allow.
//
// Ceilings, in the same run: the wire and the CPU's expert kernel measured while both run; the
// bound of a step is
//   sum over its MoE layers of min over f of max(f S / B_p, (m - f) S / B_c) + bytes read on the
//   device / its memory bandwidth,
// m the experts that the layer missed (docs/PERF.md). On a marked backend the parts of a step have
// rows too (bench/step_breakdown.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "session/loaded_model.h"

namespace longshore::bench {

struct OffloadBenchOptions {
  std::vector<std::string> routing = {"uniform",
                                      "zipf:1.1"};  // offload::Routing; "model": the router's own
  std::vector<double> budgets = {0, 0.15, 0.5};     // share of all experts that have slots
  std::vector<int64_t> batches = {1, 4, 16};        // tokens of a step
  int64_t context = 512;
  int64_t steps = 24;
  std::vector<int64_t> chunks = {8192, 16384};  // of prefill
  double device_gbs =
      0;  // the device's memory bandwidth, measured elsewhere; 0: its part of the bound is left out
  bool decode = true;
  bool prefill = true;
  // Sequences that decode beside a prompt of each chunk's length; 0: none.
  std::vector<int64_t> beside = {0, 1, 4};
  // Blocks that experts stream through, for each the prefill again; 0: as many as serving has.
  std::vector<int64_t> rings = {0};
  bool grouped = true;  // whole-layer streaming as well, one case
  uint64_t seed = 1;
};

// loaded: on a device, with experts in host memory (gpu_expert_gib 0). Its model is made anew for
// every budget. kUsage: it is not; kMemory, kDevice, kCancelled.
Result<Report> offload_bench(session::LoadedModel& loaded, const OffloadBenchOptions& options,
                             const CancelToken& cancel);

}  // namespace longshore::bench
