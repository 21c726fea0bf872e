#include "model/serving_plan.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/check.h"
#include "checkpoint/layout.h"
#include "kernels/paged.h"
#include "model/memory_plan.h"
#include "model/step_arrays.h"
#include "model/workspace.h"
#include "offload/expert_store.h"

namespace longshore::model {
namespace {

double gb(int64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

bool is_routed_expert(std::string_view name) {
  return name.find(".mlp.experts.") != std::string_view::npos;
}

// Of what is served, before tensors are added.
ModelBytes served(const GlmConfig& config, int64_t drafts) {
  LS_CHECK(drafts == 0 || config.num_mtp_layers > 0);
  ModelBytes bytes;
  bytes.config = config;
  if (drafts == 0) bytes.config.num_mtp_layers = 0;
  bytes.drafts = drafts;
  return bytes;
}

// All tensors have been added.
void describe(DType latents, ModelBytes& bytes) {
  const GlmConfig& config = bytes.config;
  bytes.moe_layers = config.num_layers - config.first_k_dense;
  bytes.kv_b_split = (config.num_layers + config.num_mtp_layers) * config.num_heads *
                     (config.qk_nope_head_dim + config.v_head_dim) * config.kv_lora_rank *
                     dtype_size(DType::kBF16);
  bytes.experts_per_layer = config.num_experts;
  bytes.experts_per_token = config.experts_per_token;
  const int64_t all = (bytes.moe_layers + config.num_mtp_layers) * config.num_experts;
  bytes.expert = all > 0 ? bytes.experts / all : 0;
  const int64_t key =
      kernels::IndexKeyCacheView::page_bytes(DType::kF8E4M3, config.index_head_dim) /
      kernels::kPageTokens;
  for (int64_t layer = 0; layer < config.num_layers + config.num_mtp_layers; ++layer) {
    bytes.cache_token += kernels::LatentCacheView::token_bytes(latents, config.kv_lora_rank,
                                                               config.qk_rope_head_dim) +
                         (config.has_indexer(layer) ? key : 0);
  }
}

void add(const std::string& name, int64_t size, ModelBytes& bytes) {
  const bool mtp = name.starts_with(fmt::format("model.layers.{}.", bytes.config.num_layers));
  if (mtp && bytes.drafts == 0) {
    bytes.unread += size;
  } else if (is_routed_expert(name)) {
    bytes.experts += size;
  } else if (name == "model.embed_tokens.weight") {
    bytes.embedding += size;
  } else {
    bytes.dense += size;
    bytes.kv_b += name.find(".kv_b_proj.") != std::string::npos ? size : 0;
  }
}

int64_t spec_bytes(const TensorSpec& spec) {
  int64_t count = 1;
  for (const int64_t n : spec.shape) count *= n;
  if (spec.role == TensorRole::kRouterBias) return count * 4;
  if (spec.role != TensorRole::kLinear || !spec.is_matrix()) return count * 2;
  const auto blocks = [](int64_t n) { return (n + 127) / 128; };
  return count + blocks(spec.shape[0]) * blocks(spec.shape[1]) * 4;
}

StepLimits planned_limits(const ModelBytes& model, int64_t context, int64_t chunk) {
  return {.tokens = chunk + kPlannedSequences * (1 + model.drafts),
          .sequences = kPlannedSequences,
          .drafts = model.drafts,
          .context = context};
}

// What the device holds beside weights, cache and graphs: activations, scratch memory and the ring.
int64_t work_bytes(const ModelBytes& model, int64_t device_bytes, int64_t context, int64_t chunk) {
  const bool draft = model.drafts > 0;
  const StepLimits limits = planned_limits(model, context, chunk);
  const StepLimits beside = beside_limits(limits, {}, model.expert > 0);
  const int64_t pausing = beside.tokens > 0
                              ? LayerState::bytes(model.config, DType::kBF16, beside.tokens) +
                                    StepArrays::bytes(model.config, beside)
                              : 0;
  int64_t ring = model.expert > 0 ? offload::ring_for(device_bytes, model.expert) : 0;
  ring += draft ? std::min(ring, kDraftRing) : 0;
  constexpr int64_t kPerToken = int64_t{515} << 10;  // of one model's activations, logits apart
  const int64_t logits =
      kPlannedSequences * (1 + model.drafts) * model.config.vocab_size * dtype_size(DType::kF32);
  return spare_bytes(chunk) + (limits.tokens * kPerToken + logits) * (draft ? 2 : 1) + pausing +
         ring * model.expert;
}

int64_t cache_bytes(const ModelBytes& model, int64_t context) {
  return (context + kernels::kPageTokens - 1) / kernels::kPageTokens * kernels::kPageTokens *
         model.cache_token;
}

void plan_without_device(const ModelBytes& model, const Machine& machine, int64_t context,
                         ServingPlan& plan) {
  // kv_b_proj's halves are made beside the mapped file, in which it stays.
  plan.host = model.dense + model.kv_b_split + model.embedding + model.experts +
              cache_bytes(model, context);
  if (plan.host > machine.host_bytes) {
    plan.problems.push_back(
        fmt::format("weights and the cache of one context take {:.1f} GB, the host has {:.1f}: use "
                    "a machine with more memory, or a smaller --context-length",
                    gb(plan.host), gb(machine.host_bytes)));
  }
  const double token = static_cast<double>(
      model.dense + model.retyped() + model.moe_layers * model.experts_per_token * model.expert);
  plan.decode_bound = machine.dram_gbs * 1e9 / token;
}

}  // namespace

int64_t spare_bytes(int64_t chunk) {
  constexpr int64_t kReserve = int64_t{512} << 20;
  return kReserve + std::max(int64_t{512} << 20, chunk * (int64_t{128} << 10));
}

ModelBytes model_bytes(const Checkpoint& checkpoint, DType latents, int64_t drafts) {
  ModelBytes bytes = served(checkpoint.config(), drafts);
  for (const TensorInfo& tensor : checkpoint.tensors()) add(tensor.name, tensor.bytes, bytes);
  describe(latents, bytes);
  return bytes;
}

ModelBytes model_bytes(const GlmConfig& config, DType latents, int64_t drafts) {
  ModelBytes bytes = served(config, drafts);
  for (const TensorSpec& spec : checkpoint_layout(config)) {
    if (!spec.optional) add(spec.name, spec_bytes(spec), bytes);
  }
  describe(latents, bytes);
  return bytes;
}

double layer_seconds(int64_t misses, int64_t bytes, const Machine& machine) {
  double best = INFINITY;
  for (int64_t fetched = 0; fetched <= misses; ++fetched) {
    const double wire = static_cast<double>(fetched * bytes) / (machine.wire_gbs * 1e9);
    const double cpu = static_cast<double>((misses - fetched) * bytes) / (machine.dram_gbs * 1e9);
    best = std::min(best, std::max(wire, cpu));
  }
  return best;
}

ServingPlan plan_serving(const ModelBytes& model, const Machine& machine, int64_t context,
                         int64_t chunk) {
  ServingPlan plan;
  if (machine.device_bytes == 0) {
    plan_without_device(model, machine, context, plan);
    return plan;
  }
  plan.device_dense = model.dense + model.retyped() + model.embedding;
  plan.device_cache = cache_bytes(model, context);
  plan.device_work = work_bytes(model, machine.device_bytes, context, chunk);
  plan.device_graphs =
      graph_bytes(model.config, planned_limits(model, context, chunk), model.drafts > 0, {});
  const int64_t fixed =
      plan.device_dense + plan.device_cache + plan.device_work + plan.device_graphs;
  if (fixed > machine.device_bytes) {
    plan.problems.push_back(fmt::format(
        "without any expert the device needs {:.1f} GB and has {:.1f}: weights {:.1f}, cache of "
        "one context {:.1f}, activations and ring {:.1f}, captured steps {:.1f}; use a smaller "
        "--context-length or --chunked-prefill-size{}",
        gb(fixed), gb(machine.device_bytes), gb(plan.device_dense), gb(plan.device_cache),
        gb(plan.device_work), gb(plan.device_graphs),
        model.drafts > 0 ? ", or leave out --speculative-num-steps" : ""));
  }
  const int64_t left = std::max<int64_t>(machine.device_bytes - fixed, 0);
  const int64_t all = model.expert > 0 ? model.experts / model.expert : 0;
  plan.resident = model.expert > 0 ? std::min(all, left / model.expert) : 0;
  plan.device_experts = plan.resident * model.expert;
  plan.host =
      plan.resident == all ? 0 : model.experts + model.dense + model.embedding + model.unread;
  if (plan.host > machine.host_bytes) {
    plan.problems.push_back(
        fmt::format("the checkpoint takes {:.1f} GB of host memory, the host has {:.1f}: use a "
                    "machine with more memory",
                    gb(plan.host), gb(machine.host_bytes)));
  }
  // Experts equally likely: a layer misses the share that is not resident. Popular ones make it
  // better.
  const double share = all > 0 ? static_cast<double>(plan.resident) / static_cast<double>(all) : 1;
  const double misses = static_cast<double>(model.experts_per_token) * (1 - share);
  const auto low = static_cast<int64_t>(std::floor(misses));
  const double part = misses - static_cast<double>(low);
  const double layer = (1 - part) * layer_seconds(low, model.expert, machine) +
                       part * layer_seconds(low + 1, model.expert, machine);
  const double device_token = static_cast<double>(model.dense + model.retyped()) +
                              static_cast<double>(model.moe_layers * model.expert) *
                                  static_cast<double>(model.experts_per_token) * share;
  plan.decode_bound = 1 / (static_cast<double>(model.moe_layers) * layer +
                           device_token / (machine.device_gbs * 1e9));
  const double streamed =
      static_cast<double>(model.moe_layers * model.experts_per_layer * model.expert) * (1 - share);
  if (streamed > 0)
    plan.prefill_bound = static_cast<double>(chunk) / (streamed / (machine.wire_gbs * 1e9));
  return plan;
}

}  // namespace longshore::model
