#include "model/model.h"

#include "model/head.h"
#include "model/layer.h"

namespace longshore::model {

Model::Model(const GlmConfig& config, kernels::Backend& backend, ModelWeights weights,
             offload::ExpertStore experts, Workspace workspace)
    : config_(&config),
      backend_(&backend),
      inv_freq_(rope_inv_freq(config.rope_theta, config.qk_rope_head_dim)),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)) {}

Result<Model> Model::create(const Checkpoint& checkpoint, kernels::Backend& backend,
                            int64_t max_step_tokens) {
  const GlmConfig& config = checkpoint.config();
  LS_TRY(ModelWeights weights, bind_model_weights(checkpoint, backend.activation_dtype()));
  LS_TRY(offload::ExpertStore experts,
         offload::ExpertStore::create(checkpoint, config.first_k_dense,
                                      config.num_layers - config.first_k_dense, backend));
  LS_TRY(Workspace workspace, Workspace::create(config, backend, max_step_tokens));
  return Model(config, backend, std::move(weights), std::move(experts), std::move(workspace));
}

bool Model::forward(const StepInput& input, const StepOutput& output) {
  LS_CHECK(input.batch.tokens >= 1);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) >= config_->num_layers);
  StepContext step{*config_,
                   inv_freq_,
                   *backend_,
                   workspace_,
                   experts_,
                   input.batch,
                   longest_context(input.batch),
                   input.observer};
  const MatrixView x = workspace_.x.first(input.batch.tokens);
  backend_->embed({.ids = input.ids, .table = weights_.embed, .y = x});
  if (input.observer != nullptr) input.observer->on_hidden(-1, x);
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    if (cut(input)) return false;
    const auto i = static_cast<size_t>(layer);
    run_layer(step, weights_.layers[i], input.caches[i], layer);
  }
  if (cut(input)) return false;
  run_head(step, weights_.norm, weights_.lm_head, input, output);
  return true;
}

}  // namespace longshore::model
