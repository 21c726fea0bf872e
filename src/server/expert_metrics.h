// The part of /metrics that tells where the experts are and who computes them.
#pragma once

#include <cstdint>
#include <string>

#include "offload/counters.h"

namespace longshore::server {

// Prometheus text of the store's report as of the last step: totals since the start, residency by
// layer, rates beside the ceilings that were measured at start. per_layer: experts; first_layer:
// the checkpoint's index of the first MoE layer. Any thread.
[[nodiscard]] std::string expert_metrics(const std::string& model_name,
                                         const offload::StoreReport& report, int64_t per_layer,
                                         int64_t first_layer);

}  // namespace longshore::server
