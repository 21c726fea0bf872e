#include "offload/expert_store.h"

#include <algorithm>

#include <fmt/format.h>

namespace longshore::offload {
namespace {

Result<kernels::ExpertView> bind_expert(const Checkpoint& checkpoint, int64_t layer,
                                        int64_t expert) {
  const GlmConfig& config = checkpoint.config();
  const std::string prefix = fmt::format("model.layers.{}.mlp.experts.{}.", layer, expert);
  kernels::ExpertView view;
  LS_TRY(view.gate, checkpoint.weight(prefix + "gate_proj.weight", config.moe_intermediate_size,
                                      config.hidden_size));
  LS_TRY(view.up, checkpoint.weight(prefix + "up_proj.weight", config.moe_intermediate_size,
                                    config.hidden_size));
  LS_TRY(view.down, checkpoint.weight(prefix + "down_proj.weight", config.hidden_size,
                                      config.moe_intermediate_size));
  return view;
}

}  // namespace

Result<ExpertStore> ExpertStore::create(const Checkpoint& checkpoint, int64_t first_layer,
                                        int64_t layers, kernels::Backend& backend) {
  LS_CHECK_MSG(layers == 0 || first_layer >= checkpoint.config().first_k_dense,
               "layer {} has no experts", first_layer);
  ExpertStore store;
  store.backend_ = &backend;
  store.first_layer_ = first_layer;
  store.num_experts_ = checkpoint.config().num_experts;
  store.seen_.resize(static_cast<size_t>(store.num_experts_));
  store.experts_.reserve(static_cast<size_t>(layers * store.num_experts_));
  for (int64_t layer = first_layer; layer < first_layer + layers; ++layer) {
    for (int64_t expert = 0; expert < store.num_experts_; ++expert) {
      LS_TRY(kernels::ExpertView view, bind_expert(checkpoint, layer, expert));
      store.experts_.push_back(view);
    }
  }
  if (!store.experts_.empty()) {
    const kernels::ExpertView& view = store.experts_.front();
    store.expert_bytes_ =
        view.gate.bytes_with_scales() + view.up.bytes_with_scales() + view.down.bytes_with_scales();
  }
  return store;
}

void ExpertStore::run(int64_t layer, ConstMatrixView x, const Routes& routes, MatrixView y) {
  const int64_t index = layer - first_layer_;
  LS_CHECK_MSG(index >= 0 && (index + 1) * num_experts_ <= static_cast<int64_t>(experts_.size()),
               "layer {} is not in this store", layer);
  count(x.rows, routes);
  kernels::ExpertsParams params;
  params.x = x;
  params.ids = routes.ids;
  params.weights = routes.weights;
  params.top_k = routes.top_k;
  params.experts = experts_.data() + index * num_experts_;
  params.num_experts = num_experts_;
  params.y = y;
  backend_->experts(params);
}

void ExpertStore::count(int64_t tokens, const Routes& routes) {
  std::fill(seen_.begin(), seen_.end(), uint8_t{0});
  int64_t distinct = 0;
  for (int64_t i = 0; i < tokens * routes.top_k; ++i) {
    uint8_t& seen = seen_[static_cast<size_t>(routes.ids[i])];
    distinct += seen == 0 ? 1 : 0;
    seen = 1;
  }
  counters_.routes += tokens * routes.top_k;
  counters_.routed_experts += distinct;
  counters_.computed_on_cpu += distinct;
  counters_.bytes_read += distinct * expert_bytes_;
}

}  // namespace longshore::offload
