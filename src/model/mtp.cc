#include <utility>

#include "model/head.h"
#include "model/layer.h"
#include "model/model.h"

namespace longshore::model {

Mtp::Mtp(const GlmConfig& config, kernels::Backend& backend, MtpWeights weights, const Model& main,
         offload::ExpertStore experts, Workspace workspace, StepArrays arrays)
    : config_(&config),
      backend_(&backend),
      embed_(main.weights().embed),
      lm_head_(main.weights().lm_head),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)),
      arrays_(std::move(arrays)) {}

Result<Mtp> Mtp::create(const Checkpoint& checkpoint, const Model& main, kernels::Backend& backend,
                        const StepLimits& limits, offload::StoreOptions offload) {
  offload.max_tokens = limits.tokens;
  const GlmConfig& config = checkpoint.config();
  LS_TRY(MtpWeights weights, load_mtp_weights(checkpoint, backend));
  LS_TRY(offload::ExpertStore experts,
         offload::ExpertStore::create(checkpoint, config.num_layers, 1, backend, offload));
  LS_TRY_VOID(experts.join_shared(shared_experts(std::span(&weights.layer, 1))));
  LS_TRY(Workspace workspace, Workspace::create(config, backend, limits));
  LS_TRY(StepArrays arrays, StepArrays::create(config, backend, limits));
  return Mtp(config, backend, std::move(weights), main, std::move(experts), std::move(workspace),
             std::move(arrays));
}

Result<void> Mtp::forward(const StepInput& input, ConstMatrixView hidden,
                          const StepOutput& output) {
  experts_.begin_step(input.batch.tokens);
  auto done = run(input, hidden, output);
  if (!done) (void)backend_->synchronize();
  experts_.end_step();
  return done;
}

Result<void> Mtp::run(const StepInput& input, ConstMatrixView hidden, const StepOutput& output) {
  LS_TRY_VOID(check_cancel(input));
  const int64_t tokens = input.batch.tokens;
  LS_CHECK(tokens >= 1 && hidden.rows == tokens && hidden.cols == config_->hidden_size);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) == config_->num_layers + 1);
  tokens_ = tokens;
  const StepArrays::View arrays = arrays_.stage(input);
  Tap tap(input.observer, *backend_);
  StepContext step{*config_, weights_.inv_freq, *backend_,         workspace_,
                   experts_, arrays.batch,      arrays.logit_rows, longest_context(input.batch),
                   tap};
  const MatrixView x = workspace_.x.first(tokens);
  const MatrixView joined = workspace_.mtp_input.first(tokens);
  const float eps = config_->rms_norm_eps;
  // Before x is written: hidden may be this layer's own.
  backend_->rms_norm({.x = hidden,
                      .weight = weights_.hnorm,
                      .eps = eps,
                      .y = joined.slice_cols(config_->hidden_size, config_->hidden_size)});
  backend_->embed({.ids = arrays.ids, .table = embed_, .y = x});
  backend_->rms_norm({.x = x,
                      .weight = weights_.enorm,
                      .eps = eps,
                      .y = joined.slice_cols(0, config_->hidden_size)});
  backend_->linear({.x = joined, .w = weights_.eh_proj, .y = x});
  run_layer(step, weights_.layer, input.caches.back(), config_->num_layers);
  LS_TRY_VOID(check_cancel(input));
  return run_head(step, weights_.head_norm, lm_head_, input, output);
}

}  // namespace longshore::model
