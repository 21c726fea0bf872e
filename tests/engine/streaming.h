// A model on a fake device whose prompts stream experts from host memory: their passes pause.
#pragma once

#include <limits>

#include "tests/engine/driver.h"
#include "tests/model/budget.h"

namespace longshore::engine {

constexpr double kAfterEveryLayer = std::numeric_limits<double>::infinity();
constexpr int64_t kBeside = 8;          // tokens of a step beside a pass
constexpr double kCopySeconds = 10e-3;  // of an expert

// share: of the experts that have slots. A CPU computes what steps of up to kBeside tokens miss.
// In a model of time with the proportions of a large model: half a layer's copies take 40 ms, a
// long step's attention 15, the CPU's experts of a layer of a step beside it so many seconds.
inline void set_times(TestModel& test, double host_sum) {
  if (test.fake == nullptr) return;
  const auto bytes = static_cast<double>(test.model->experts().expert_bytes());
  test.fake->set_times({.operation =
                            [](const std::string& operation, int64_t rows) {
                              if (rows <= kBeside) return 1e-6;
                              return operation == "sparse_mla" ? 15e-3 : 0.5e-3;
                            },
                        .copied_byte = kCopySeconds / bytes,
                        .host_sum = host_sum});
}

inline TestModel streaming_model(const std::string& dir, double share, double forced_fetch = -1,
                                 bool with_cpu = true,
                                 const std::string& backend = "fake:reference", int64_t ring = 5) {
  offload::StoreOptions options;
  options.budget_bytes = budget_for(dir, share);
  options.ring = ring;
  options.decode_tokens = kBeside;
  options.forced_fetch = forced_fetch;
  options.costs = {.wire_bytes_per_second = 1e10, .cpu_seconds_one_token = 1e-6};
  return {dir, backend, 160, 1, kBeside, options, with_cpu};
}

}  // namespace longshore::engine
