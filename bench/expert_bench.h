// Speed of the experts' kernels alone: one MoE layer of GLM-5.1's true size, FP8, its bank several
// times the last-level cache, against plain loads of the same bank by the same threads.
#pragma once

#include <cstdint>
#include <string>

#include "base/cancel.h"
#include "base/error.h"
#include "base/threads.h"
#include "bench/report.h"

namespace longshore::bench {

struct ExpertBenchOptions {
  std::string cpu_isa = "auto";
  int64_t experts =
      0;             // of the bank; 0: the layer's 256, or as many as fit half of the free memory
  int repeats = 15;  // of a decode case; each repeat reads the bank with plain loads too
  bool decode = true;
  bool prefill = true;
  uint64_t seed = 1;
};

// kMemory: the bank does not fit. kUsage: the instruction set is unknown.
Result<Report> expert_bench(ThreadPool& pool, const ExpertBenchOptions& options,
                            const CancelToken& cancel);

}  // namespace longshore::bench
