#include "model/head.h"
#include "model/layer.h"
#include "model/model.h"

namespace longshore::model {

Mtp::Mtp(const GlmConfig& config, kernels::Backend& backend, MtpWeights weights, const Model& main,
         offload::ExpertStore experts, Workspace workspace)
    : config_(&config),
      backend_(&backend),
      inv_freq_(rope_inv_freq(config.rope_theta, config.qk_rope_head_dim)),
      embed_(main.weights().embed),
      lm_head_(main.weights().lm_head),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)) {}

Result<Mtp> Mtp::create(const Checkpoint& checkpoint, const Model& main, kernels::Backend& backend,
                        int64_t max_step_tokens) {
  const GlmConfig& config = checkpoint.config();
  LS_TRY(MtpWeights weights, bind_mtp_weights(checkpoint, backend.activation_dtype()));
  LS_TRY(offload::ExpertStore experts,
         offload::ExpertStore::create(checkpoint, config.num_layers, 1, backend));
  LS_TRY(Workspace workspace, Workspace::create(config, backend, max_step_tokens));
  return Mtp(config, backend, std::move(weights), main, std::move(experts), std::move(workspace));
}

bool Mtp::forward(const StepInput& input, ConstMatrixView hidden, const StepOutput& output) {
  if (cut(input)) return false;
  const int64_t tokens = input.batch.tokens;
  LS_CHECK(tokens >= 1 && hidden.rows == tokens && hidden.cols == config_->hidden_size);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) == config_->num_layers + 1);
  StepContext step{*config_,
                   inv_freq_,
                   *backend_,
                   workspace_,
                   experts_,
                   input.batch,
                   longest_context(input.batch),
                   input.observer};
  const MatrixView x = workspace_.x.first(tokens);
  const MatrixView joined = workspace_.mtp_input.first(tokens);
  const float eps = config_->rms_norm_eps;
  backend_->embed({.ids = input.ids, .table = embed_, .y = x});
  backend_->rms_norm({.x = x,
                      .weight = weights_.enorm.data(),
                      .eps = eps,
                      .y = joined.slice_cols(0, config_->hidden_size)});
  backend_->rms_norm({.x = hidden,
                      .weight = weights_.hnorm.data(),
                      .eps = eps,
                      .y = joined.slice_cols(config_->hidden_size, config_->hidden_size)});
  backend_->linear({.x = joined, .w = weights_.eh_proj, .y = x});
  run_layer(step, weights_.layer, input.caches.back(), config_->num_layers);
  if (cut(input)) return false;
  run_head(step, weights_.head_norm, lm_head_, input, output);
  return true;
}

}  // namespace longshore::model
