// Device memory for a share of a checkpoint's routed experts.
#pragma once

#include <string>

#include "checkpoint/checkpoint.h"
#include "offload/device_bank.h"
#include "offload/host_experts.h"

namespace longshore {

// Bytes of slots for so much of all experts of the main model. The directory holds a checkpoint
// that can be opened.
inline int64_t budget_for(const std::string& dir, double share) {
  auto checkpoint = Checkpoint::open(dir);
  LS_CHECK(checkpoint.has_value());
  const GlmConfig& config = checkpoint->config();
  auto experts = offload::HostExperts::bind(*checkpoint, config.first_k_dense,
                                            config.num_layers - config.first_k_dense);
  LS_CHECK(experts.has_value());
  return static_cast<int64_t>(share * static_cast<double>(experts->size()) *
                              static_cast<double>(offload::DeviceBank::block_bytes(*experts)));
}

}  // namespace longshore
