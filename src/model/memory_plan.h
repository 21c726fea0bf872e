// What a model takes of its backend's memory, before anything is taken.
#pragma once

#include <cstdint>
#include <optional>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"
#include "model/step.h"
#include "model/step_graphs.h"
#include "offload/expert_store.h"

namespace longshore::model {

struct MemoryPlan {
  int64_t weights = 0;      // outside the routed experts, MTP's included
  int64_t experts = 0;      // the slots of a device, and the ring that the others pass through
  int64_t offloaded = 0;    // bytes of experts that have no slot, in host memory; not in total()
  int64_t activations = 0;  // workspaces and a step's arrays
  int64_t graphs = 0;       // captured steps, about
  int64_t cache = 0;        // the smallest that serves: one context

  [[nodiscard]] int64_t total() const { return weights + experts + activations + graphs + cache; }
};

// Of the draft's ring, blocks at most: it has one layer, and nothing comes ahead of it.
constexpr int64_t kDraftRing = 32;

// Captured steps, about, in bytes. drafts: the MTP layer's too.
[[nodiscard]] int64_t graph_bytes(const GlmConfig& config, const StepLimits& limits, bool drafts,
                                  const GraphOptions& options);

// A budget is for all slots: the target's part of it, and the draft's, by their layers.
[[nodiscard]] offload::StoreOptions target_options(const offload::StoreOptions& all,
                                                   const GlmConfig& config, bool with_mtp);
[[nodiscard]] offload::StoreOptions draft_options(const offload::StoreOptions& all,
                                                  const GlmConfig& config);

// Steps that may run while another one, longer than them, pauses: they have their own LayerState
// and StepArrays. Those that experts beyond the device do not stream for; no tokens where there are
// none, or no longer ones. offloaded: some experts have no slot.
[[nodiscard]] StepLimits beside_limits(const StepLimits& limits,
                                       const offload::StoreOptions& offload, bool offloaded);

// cache_tokens: that the caches shall hold; less than one context counts as one. latents: as
// KvLayout::of.
// Of a model with these limits and, with_mtp, its MTP layer; graphs: of what will be captured.
// kModel naming the tensor.
[[nodiscard]] Result<MemoryPlan> plan_memory(
    const Checkpoint& checkpoint, kernels::Backend& backend, const StepLimits& limits,
    bool with_mtp, const offload::StoreOptions& offload = {}, int64_t cache_tokens = 0,
    const GraphOptions& graphs = {.on = false}, std::optional<DType> latents = std::nullopt);

// Whether the backend's memory has room for it. kMemory with the numbers and what to change.
[[nodiscard]] Result<void> check_memory(const MemoryPlan& plan, const device::Memory& memory);

}  // namespace longshore::model
