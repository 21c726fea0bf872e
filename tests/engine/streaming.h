// A model on a fake device whose prompts stream experts from host memory: their passes pause.
#pragma once

#include <limits>

#include "tests/engine/driver.h"

namespace longshore::engine {

constexpr double kAfterEveryLayer = std::numeric_limits<double>::infinity();
constexpr int64_t kBeside = 8;  // tokens of a step beside a pass

// share: of the experts that have slots. A CPU computes what steps of up to kBeside tokens miss.
inline TestModel streaming_model(const std::string& dir, double share, double forced_fetch = -1,
                                 bool with_cpu = true,
                                 const std::string& backend = "fake:reference") {
  auto checkpoint = Checkpoint::open(dir);
  LS_CHECK(checkpoint.has_value());
  const GlmConfig& config = checkpoint->config();
  auto experts = offload::HostExperts::bind(*checkpoint, config.first_k_dense,
                                            config.num_layers - config.first_k_dense);
  LS_CHECK(experts.has_value());
  offload::StoreOptions options;
  options.budget_bytes =
      static_cast<int64_t>(share * static_cast<double>(experts->size()) *
                           static_cast<double>(offload::DeviceBank::block_bytes(*experts)));
  options.ring = 4;
  options.decode_tokens = kBeside;
  options.forced_fetch = forced_fetch;
  options.costs = {.wire_bytes_per_second = 1e10, .cpu_seconds_one_token = 1e-6};
  return {dir, backend, 160, 1, kBeside, options, with_cpu};
}

}  // namespace longshore::engine
