// A model on a fake device whose prompts stream experts from host memory: their passes pause.
#pragma once

#include <limits>

#include "tests/engine/driver.h"
#include "tests/model/budget.h"

namespace longshore::engine {

constexpr double kAfterEveryLayer = std::numeric_limits<double>::infinity();
constexpr int64_t kBeside = 8;  // tokens of a step beside a pass

// share: of the experts that have slots. A CPU computes what steps of up to kBeside tokens miss.
inline TestModel streaming_model(const std::string& dir, double share, double forced_fetch = -1,
                                 bool with_cpu = true,
                                 const std::string& backend = "fake:reference") {
  offload::StoreOptions options;
  options.budget_bytes = budget_for(dir, share);
  options.ring = 4;
  options.decode_tokens = kBeside;
  options.forced_fetch = forced_fetch;
  options.costs = {.wire_bytes_per_second = 1e10, .cpu_seconds_one_token = 1e-6};
  return {dir, backend, 160, 1, kBeside, options, with_cpu};
}

}  // namespace longshore::engine
