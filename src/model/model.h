// The main model: token ids in, final hidden states and logits out, caches written on the way.
//
// Ownership: the checkpoint and the backend outlive the model. The workspace is the model's own: it
// is sized by max_step_tokens and bounds the tokens of one forward(). Threading: one thread calls
// forward().
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"
#include "model/kv_layout.h"
#include "model/observer.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "offload/expert_store.h"

namespace longshore::model {

// One step over a ragged batch. Every position of a sequence below the batch's lowest one has been
// through forward() (same caches) before.
struct StepInput {
  const int32_t* ids = nullptr;         // [T] in [0, vocab)
  kernels::BatchView batch;             // T tokens
  std::span<const int32_t> logit_rows;  // rows in [0, T) whose logits are wanted
  std::span<const LayerCache> caches;   // [KvLayout::layers()]
  Observer* observer = nullptr;
  const CancelToken* cancel = nullptr;  // asked before every layer
};

struct StepOutput {
  MatrixView hidden;  // [T, hidden] fp32 out: after the final norm. data == nullptr: not wanted
  MatrixView logits;  // [logit_rows.size(), vocab] fp32 out
};

class Model {
 public:
  // Errors: kModel naming the tensor; kMemory.
  static Result<Model> create(const Checkpoint& checkpoint, kernels::Backend& backend,
                              int64_t max_step_tokens);

  // False: input.cancel cut it short. The output is then worthless, and so are the caches of the
  // batch's positions; those of all others are as they were, so that the same step may be made
  // again.
  [[nodiscard]] bool forward(const StepInput& input, const StepOutput& output);

  [[nodiscard]] const GlmConfig& config() const { return *config_; }
  [[nodiscard]] int64_t max_step_tokens() const { return workspace_.max_tokens; }
  [[nodiscard]] const offload::ExpertStore& experts() const { return experts_; }
  [[nodiscard]] const ModelWeights& weights() const { return weights_; }

 private:
  Model(const GlmConfig& config, kernels::Backend& backend, ModelWeights weights,
        offload::ExpertStore experts, Workspace workspace);

  const GlmConfig* config_;
  kernels::Backend* backend_;
  std::vector<float> inv_freq_;
  ModelWeights weights_;
  offload::ExpertStore experts_;
  Workspace workspace_;
};

// The multi-token-prediction layer: a model of its own, with its own expert store and workspace.
// From the main model's final hidden state at position t and the id of token t + 1 it predicts
// token t + 2.
//   x = eh_proj [enorm(embed(id)) ; hnorm(h)] -> decoder layer at position t -> shared_head.norm ->
//   main lm_head.
// Source: SGLang's GLM/DeepSeek next-n layer.
class Mtp {
 public:
  // The main model's embed and lm_head are shared: they are views into the checkpoint. The config
  // has an MTP layer.
  static Result<Mtp> create(const Checkpoint& checkpoint, const Model& main,
                            kernels::Backend& backend, int64_t max_step_tokens);

  // input.ids[t]: the token AFTER row t's position; hidden [T, hidden] fp32: the main model's
  // output at row t's position, or this layer's own output when drafting further. output.hidden:
  // after shared_head.norm. input.caches [KvLayout::layers()]: the last one is this layer's. False:
  // cut short, as Model::forward().
  [[nodiscard]] bool forward(const StepInput& input, ConstMatrixView hidden,
                             const StepOutput& output);

 private:
  Mtp(const GlmConfig& config, kernels::Backend& backend, MtpWeights weights, const Model& main,
      offload::ExpertStore experts, Workspace workspace);

  const GlmConfig* config_;
  kernels::Backend* backend_;
  std::vector<float> inv_freq_;
  WeightView embed_;
  WeightView lm_head_;
  MtpWeights weights_;
  offload::ExpertStore experts_;
  Workspace workspace_;
};

}  // namespace longshore::model
