#include "offload/host_experts.h"

#include <algorithm>

#include <fmt/format.h>

namespace longshore::offload {
namespace {

using kernels::ExpertView;

Result<ExpertView> bind_expert(const Checkpoint& checkpoint, int64_t layer, int64_t expert) {
  const GlmConfig& config = checkpoint.config();
  const std::string prefix = fmt::format("model.layers.{}.mlp.experts.{}.", layer, expert);
  ExpertView view;
  LS_TRY(view.gate, checkpoint.weight(prefix + "gate_proj.weight", config.moe_intermediate_size,
                                      config.hidden_size));
  LS_TRY(view.up, checkpoint.weight(prefix + "up_proj.weight", config.moe_intermediate_size,
                                    config.hidden_size));
  LS_TRY(view.down, checkpoint.weight(prefix + "down_proj.weight", config.hidden_size,
                                      config.moe_intermediate_size));
  return view;
}

bool same_kind(const WeightView& a, const WeightView& b) {
  return a.dtype == b.dtype && a.block_rows == b.block_rows && a.block_cols == b.block_cols;
}

}  // namespace

Result<HostExperts> HostExperts::bind(const Checkpoint& checkpoint, int64_t first_layer,
                                      int64_t layers) {
  LS_CHECK_MSG(layers == 0 || first_layer >= checkpoint.config().first_k_dense,
               "layer {} has no experts", first_layer);
  HostExperts experts;
  experts.first_layer_ = first_layer;
  experts.layers_ = layers;
  experts.per_layer_ = checkpoint.config().num_experts;
  experts.views_.reserve(static_cast<size_t>(layers * experts.per_layer_));
  for (int64_t layer = first_layer; layer < first_layer + layers; ++layer) {
    for (int64_t expert = 0; expert < experts.per_layer_; ++expert) {
      LS_TRY(ExpertView view, bind_expert(checkpoint, layer, expert));
      experts.views_.push_back(view);
    }
  }
  for (int64_t index = 0; index < layers; ++index) {
    const ExpertView* first = experts.layer(index);
    experts.mixed_.push_back(
        !std::all_of(first, first + experts.per_layer_, [first](const ExpertView& view) {
          return same_kind(view.gate, first->gate) && same_kind(view.up, first->up) &&
                 same_kind(view.down, first->down);
        }));
  }
  return experts;
}

int64_t HostExperts::index_of(int64_t layer) const {
  const int64_t index = layer - first_layer_;
  LS_CHECK_MSG(index >= 0 && index < layers_, "layer {} is not in this store", layer);
  return index;
}

int64_t HostExperts::expert_bytes() const {
  if (views_.empty()) return 0;
  const ExpertView& view = views_.front();
  return view.gate.bytes_with_scales() + view.up.bytes_with_scales() +
         view.down.bytes_with_scales();
}

}  // namespace longshore::offload
