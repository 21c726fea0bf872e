#include "model/memory_plan.h"

#include <algorithm>

#include "model/step_arrays.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace longshore::model {
namespace {

double gb(int64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

}  // namespace

// The draft's steps are captured twice. A step's end counts as a layer.
int64_t graph_bytes(const GlmConfig& config, const StepLimits& limits, bool drafts,
                    const GraphOptions& options) {
  constexpr int64_t kLayer = int64_t{80} << 10;  // measured: docs/PERF.md, "Guessing ahead"
  const auto shapes = static_cast<int64_t>(step_shapes(config, limits, options).size());
  return shapes * (config.num_layers + 1 + (drafts ? 2 * 2 : 0)) * kLayer;
}

offload::StoreOptions target_options(const offload::StoreOptions& all, const GlmConfig& config,
                                     bool with_mtp) {
  offload::StoreOptions options = all;
  if (with_mtp && all.budget_bytes != INT64_MAX)
    options.budget_bytes -= draft_options(all, config).budget_bytes;
  return options;
}

offload::StoreOptions draft_options(const offload::StoreOptions& all, const GlmConfig& config) {
  offload::StoreOptions options = all;
  const int64_t layers = config.num_layers - config.first_k_dense + 1;
  if (all.budget_bytes != INT64_MAX) options.budget_bytes /= layers;
  options.ring = std::min(options.ring, kDraftRing);
  return options;
}

StepLimits beside_limits(const StepLimits& limits, const offload::StoreOptions& offload,
                         bool offloaded) {
  StepLimits beside = limits;
  const bool any = offloaded && !offload.group.on() && !offload.meta;
  beside.tokens = any && limits.tokens > offload.decode_tokens ? offload.decode_tokens : 0;
  return beside;
}

Result<MemoryPlan> plan_memory(const Checkpoint& checkpoint, kernels::Backend& backend,
                               const StepLimits& limits, bool with_mtp,
                               const offload::StoreOptions& asked, int64_t cache_tokens,
                               const GraphOptions& graphs, std::optional<DType> latents) {
  using offload::ExpertStore;
  const GlmConfig& config = checkpoint.config();
  offload::StoreOptions offload = target_options(asked, config, with_mtp);
  offload.max_tokens = limits.tokens;
  MemoryPlan plan;
  LS_TRY(plan.weights, model_weight_bytes(checkpoint, backend));
  LS_TRY(plan.experts,
         ExpertStore::device_bytes(checkpoint, config.first_k_dense,
                                   config.num_layers - config.first_k_dense, backend, offload));
  LS_TRY(plan.offloaded,
         ExpertStore::offloaded_bytes(checkpoint, config.first_k_dense,
                                      config.num_layers - config.first_k_dense, backend, offload));
  const auto place = [&](const StepLimits& of) {
    return LayerState::bytes(config, backend.activation_dtype(), of.tokens) +
           StepArrays::bytes(config, of);
  };
  const int64_t step = Workspace::bytes(config, backend, limits) + place(limits);
  plan.activations = step;
  if (const StepLimits beside = beside_limits(limits, offload, plan.offloaded > 0);
      beside.tokens > 0)
    plan.activations += place(beside);
  if (with_mtp) {
    offload = draft_options(asked, config);
    offload.max_tokens = limits.tokens;
    LS_TRY(const int64_t weights, mtp_weight_bytes(checkpoint, backend));
    LS_TRY(const int64_t offloaded,
           ExpertStore::offloaded_bytes(checkpoint, config.num_layers, 1, backend, offload));
    plan.offloaded += offloaded;
    LS_TRY(const int64_t experts,
           ExpertStore::device_bytes(checkpoint, config.num_layers, 1, backend, offload));
    plan.weights += weights;
    plan.experts += experts;
    plan.activations += step;
  }
  if (StepGraphs::of(backend) != nullptr)
    plan.graphs = graph_bytes(config, limits, with_mtp && limits.drafts > 0, graphs);
  const int64_t context = limits.context > 0 ? limits.context : config.max_positions;
  const int64_t pages =
      (std::max(context, cache_tokens) + kernels::kPageTokens - 1) / kernels::kPageTokens;
  plan.cache = pages * KvLayout::of(config, backend, with_mtp, latents).page_bytes();
  return plan;
}

Result<void> check_memory(const MemoryPlan& plan, const device::Memory& memory) {
  const int64_t available = memory.available();
  if (plan.total() <= available) return {};
  return fail(
      ErrorKind::kMemory,
      "the model takes {:.2f} GB of device memory and {:.2f} GB are free: weights {:.2f}, "
      "experts {:.2f}, activations {:.2f}, captured steps {:.2f}, the cache of one context "
      "{:.2f}; use a smaller "
      "--context-length or --chunked-prefill-size, --kv-cache-dtype fp8_e4m3, or --device cpu",
      gb(plan.total()), gb(available), gb(plan.weights), gb(plan.experts), gb(plan.activations),
      gb(plan.graphs), gb(plan.cache));
}

}  // namespace longshore::model
