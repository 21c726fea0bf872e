#include "model/model.h"

#include <utility>

#include "model/head.h"
#include "model/layer.h"

namespace longshore::model {

Model::Model(const GlmConfig& config, kernels::Backend& backend, const StepLimits& limits,
             ModelWeights weights, offload::ExpertStore experts, Workspace workspace,
             StepArrays arrays)
    : config_(&config),
      backend_(&backend),
      limits_(limits),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)),
      arrays_(std::move(arrays)) {}

Result<Model> Model::create(const Checkpoint& checkpoint, kernels::Backend& backend,
                            const StepLimits& limits, offload::StoreOptions offload) {
  offload.max_tokens = limits.tokens;
  const GlmConfig& config = checkpoint.config();
  LS_TRY(ModelWeights weights, load_model_weights(checkpoint, backend));
  LS_TRY(offload::ExpertStore experts,
         offload::ExpertStore::create(checkpoint, config.first_k_dense,
                                      config.num_layers - config.first_k_dense, backend, offload));
  LS_TRY(Workspace workspace, Workspace::create(config, backend, limits));
  LS_TRY(StepArrays arrays, StepArrays::create(config, backend, limits));
  return Model(config, backend, limits, std::move(weights), std::move(experts),
               std::move(workspace), std::move(arrays));
}

Result<void> Model::forward(const StepInput& input, const StepOutput& output) {
  experts_.begin_step(input.batch.tokens);
  auto done = run(input, output);
  // Cut short or failed, the layers that began are waited for all the same: the experts' slots are
  // theirs until then.
  if (!done) (void)backend_->synchronize();
  experts_.end_step();
  return done;
}

Result<void> Model::run(const StepInput& input, const StepOutput& output) {
  LS_CHECK(input.batch.tokens >= 1);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) >= config_->num_layers);
  tokens_ = input.batch.tokens;
  const StepArrays::View arrays = arrays_.stage(input);
  Tap tap(input.observer, *backend_);
  StepContext step{*config_, weights_.inv_freq, *backend_,         workspace_,
                   experts_, arrays.batch,      arrays.logit_rows, longest_context(input.batch),
                   tap};
  const MatrixView x = workspace_.x.first(tokens_);
  backend_->embed({.ids = arrays.ids, .table = weights_.embed, .y = x});
  tap.hidden(-1, x);
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    LS_TRY_VOID(check_cancel(input));
    const auto i = static_cast<size_t>(layer);
    run_layer(step, weights_.layers[i], input.caches[i], layer);
  }
  LS_TRY_VOID(check_cancel(input));
  return run_head(step, weights_.norm, weights_.lm_head, input, output);
}

}  // namespace longshore::model
