// The main model: token ids in, final hidden states and logits out, caches written on the way.
//
// Ownership: the checkpoint and the backend outlive the model. The workspace is the model's own: it
// is sized by the StepLimits, which bound one pass. Threading: one thread calls everything.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"
#include "model/step.h"
#include "model/step_arrays.h"
#include "model/step_graphs.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "offload/expert_store.h"

namespace longshore::model {

struct StepContext;
class Tap;

class Model {
 public:
  // Everything goes into the backend's memory. Errors: kModel naming the tensor; kMemory; kDevice.
  // offload: max_tokens is the limits'.
  static Result<Model> create(const Checkpoint& checkpoint, kernels::Backend& backend,
                              const StepLimits& limits, offload::StoreOptions offload = {});

  // Captures decode steps over these caches, all of whose pages are free yet, in place of those
  // that were captured before: forward() then runs a step that fits one by a single launch, beside
  // which the host decides about experts that the device does not hold. Nothing happens where the
  // backend has no graphs; shapes whose experts stream are left out. kDevice.
  [[nodiscard]] Result<void> capture_steps(std::span<const LayerCache> caches,
                                           const GraphOptions& options);
  // Steps that were run so, and graphs that there are.
  [[nodiscard]] int64_t replayed_steps() const { return replayed_; }
  [[nodiscard]] int64_t captured_steps() const;

  // When it returns, the output is there. kCancelled: input.cancel cut it short; the output is then
  // worthless, and so are the caches of the batch's positions; those of all others are as they
  // were, so that the same step may be made again. kDevice: nothing that the device holds is to be
  // trusted any more.
  [[nodiscard]] Result<void> forward(const StepInput& input, const StepOutput& output);
  // [T, hidden] fp32 in the backend's memory: the hidden states of the last pass that wanted them
  // or logits, after the final norm. Until the next one ends or begins.
  [[nodiscard]] ConstMatrixView hidden() const {
    return (last_beside_ ? *beside_ : main_).state.x.first(tokens_);
  }
  // [any, hidden]: where those of decode steps always lie, or, where prompts' passes pause, of
  // those with at most beside_tokens() rows.
  [[nodiscard]] ConstMatrixView hidden_place() const {
    const LayerState& state = (beside_ ? *beside_ : main_).state;
    return state.x.first(state.x.max_tokens());
  }

  // forward() in parts, for a step whose experts stream from host memory: in its pauses forward()
  // may run steps of up to beside_tokens(), over other positions. Where such a step lasts longer
  // than the wire has work, the pass goes on to next pauses between its layers. At most one such
  // pass at a time.
  [[nodiscard]] bool pausable(int64_t tokens) const;
  [[nodiscard]] int64_t beside_tokens() const;  // 0: no step is pausable
  // input's arrays stay as they are until the pass ends; it has no observer and is not cancelled
  // but abandoned. The first experts are on their way.
  void begin_pass(const StepInput& input);
  // Queues what comes up to the next pause: the middle of a layer whose experts stream, where the
  // wire has most to do, or its end where they have all come. False: up to the pass's end.
  [[nodiscard]] bool advance_pass();
  // Until the device has done what the pass has queued, copies ahead not meant; what runs beside it
  // then does not wait for it. Seconds that it is behind a pass with nothing beside it, as
  // measured; infinite: not known yet.
  double await_pass();
  // After the last pause: as forward()'s end. kDevice.
  [[nodiscard]] Result<void> finish_pass(const StepOutput& output);
  // The pass ends without output; caches of its positions are worthless.
  void abandon_pass();
  [[nodiscard]] bool in_pass() const { return pass_.has_value(); }
  // Of the pass, the one that pauses among them.
  [[nodiscard]] int64_t queued_layers() const { return pass_->queued_layers; }

  // Where outputs come to fastest: locked host memory beside a device. Outlives the model.
  [[nodiscard]] device::Memory& output_memory() const {
    device::Transfers* wire = backend_->transfers();
    return wire == nullptr ? device::host_memory() : wire->mapped();
  }

  [[nodiscard]] const GlmConfig& config() const { return *config_; }
  [[nodiscard]] const StepLimits& limits() const { return limits_; }
  [[nodiscard]] const offload::ExpertStore& experts() const { return experts_; }
  [[nodiscard]] offload::ExpertStore& experts() { return experts_; }
  [[nodiscard]] const ModelWeights& weights() const { return weights_; }

 private:
  Model(const GlmConfig& config, kernels::Backend& backend, const StepLimits& limits,
        ModelWeights weights, offload::ExpertStore experts, Workspace workspace);
  // Where a step of its own is: what it carries between layers and its arrays.
  struct Place {
    LayerState state;
    StepArrays arrays;
  };
  static Result<Place> make_place(const GlmConfig& config, kernels::Backend& backend,
                                  const StepLimits& limits);
  // Short steps have a place beside the long ones', where there is one.
  [[nodiscard]] bool goes_beside(int64_t tokens) const {
    return beside_ && tokens <= beside_->state.x.max_tokens();
  }
  [[nodiscard]] Place& place_of(int64_t tokens) { return goes_beside(tokens) ? *beside_ : main_; }
  [[nodiscard]] StepContext context(Place& place, const StepArrays::View& arrays,
                                    int64_t longest_context, Tap& tap);
  Result<void> run(const StepInput& input, const StepOutput& output);
  Result<void> replay(const StepGraphs::Step& graph, const StepInput& input,
                      const StepOutput& output);
  Result<void> queue_layers(StepContext& step, const int32_t* ids, const StepInput& input);
  void end_pass();
  void keep_wire_busy();
  void queue_embed(StepContext& step, const int32_t* ids);
  Result<void> queue_layer(StepContext& step, const StepInput& input, int64_t layer);

  const GlmConfig* config_;
  kernels::Backend* backend_;
  StepLimits limits_;
  ModelWeights weights_;
  offload::ExpertStore experts_;
  Workspace workspace_;
  Place main_;
  std::optional<Place> beside_;
  struct Pass {
    StepInput input;
    StepArrays::View arrays;
    int64_t longest;            // context
    int64_t queued_layers = 0;  // the one that pauses among them
  };
  std::optional<Pass> pass_;
  int64_t tokens_ = 0;        // of the last pass that ended, or forward() that began
  bool last_beside_ = false;  // where it was
  int64_t replayed_ = 0;
  std::unique_ptr<StepGraphs> graphs_;  // nothing captured: nullptr
};

// The multi-token-prediction layer: a model of its own, with its own expert store and workspace.
// From the main model's final hidden state at position t and the id of token t + 1 it predicts
// token t + 2.
//   x = eh_proj [enorm(embed(id)) ; hnorm(h)] -> decoder layer at position t -> shared_head.norm ->
//   main lm_head.
// Source: SGLang's GLM/DeepSeek next-n layer.
class Mtp {
 public:
  // The main model's embed and lm_head are shared: it outlives the layer. The config has an MTP
  // layer.
  static Result<Mtp> create(const Checkpoint& checkpoint, const Model& main,
                            kernels::Backend& backend, const StepLimits& limits,
                            offload::StoreOptions offload = {});

  // input.ids[t]: the token AFTER row t's position; hidden [any, hidden] fp32 in the backend's
  // memory, by input.hidden_rows: the main model's hidden() at row t's position, or this layer's
  // own when drafting further. output.hidden: after shared_head.norm. input.caches
  // [KvLayout::layers()]: the last one is this layer's. Errors as Model::forward().
  [[nodiscard]] Result<void> forward(const StepInput& input, ConstMatrixView hidden,
                                     const StepOutput& output);
  // Whether guesses can follow one another without the host: a device, which holds all of this
  // layer's experts.
  [[nodiscard]] bool draws() const;
  // One step of a chain of guesses; draws(). As forward(), but queued, and of every wanted row only
  // an id is made, which stays on the device: drawn by rules [logit_rows.size()], -1 where a logit
  // is not finite. The first step reads input.ids; in each that follows every row wants logits, and
  // row t reads the id that the step before drew for its row t. kCancelled, kDevice.
  [[nodiscard]] Result<void> draw(const StepInput& input, ConstMatrixView hidden,
                                  std::span<const kernels::DrawRule> rules);
  // Ends the chain and waits for it: its ids, step by step, row by row. ids: as many as were drawn;
  // empty: they are not wanted. kDevice.
  [[nodiscard]] Result<void> take_drawn(std::span<int32_t> ids);
  // As Model::capture_steps(), twice: steps that go on from rows of the main model's hidden states,
  // hidden_place(), and steps that go on from rows of this layer's own. They have hidden_rows.
  [[nodiscard]] Result<void> capture_steps(std::span<const LayerCache> caches,
                                           ConstMatrixView hidden_place,
                                           const GraphOptions& options);
  [[nodiscard]] int64_t replayed_steps() const { return replayed_; }
  [[nodiscard]] kernels::Backend& backend() const { return *backend_; }
  [[nodiscard]] const offload::ExpertStore& experts() const { return experts_; }
  [[nodiscard]] offload::ExpertStore& experts() { return experts_; }
  // As Model::hidden(), after shared_head.norm.
  [[nodiscard]] ConstMatrixView hidden() const { return state_.x.first(tokens_); }

 private:
  Mtp(const GlmConfig& config, kernels::Backend& backend, MtpWeights weights, const Model& main,
      offload::ExpertStore experts, Workspace workspace, LayerState state, StepArrays arrays,
      const StepLimits& limits);
  Result<void> run(const StepInput& input, ConstMatrixView hidden, const StepOutput& output);
  void check(const StepInput& input, ConstMatrixView hidden) const;
  Result<void> queue_draw_step(const StepInput& input, ConstMatrixView hidden);
  Result<void> replay(StepGraphs& graphs, const StepGraphs::Step& graph, const StepInput& input,
                      const StepOutput& output);
  Result<void> capture_from(ConstMatrixView hidden, const StepInput& example,
                            const GraphOptions& options, StepGraphs& graphs);
  [[nodiscard]] StepContext context(const StepArrays::View& arrays, int64_t longest_context,
                                    Tap& tap);
  void queue(StepContext& step, const StepArrays::View& arrays, ConstMatrixView hidden,
             const LayerCache& cache);
  // What was captured for hidden states that lie there, and the graph that holds the step; nullptr:
  // none does.
  struct Captured {
    StepGraphs* graphs = nullptr;
    const StepGraphs::Step* step = nullptr;
  };
  [[nodiscard]] Captured find(const StepInput& input, ConstMatrixView hidden) const;

  const GlmConfig* config_;
  kernels::Backend* backend_;
  WeightView embed_;
  WeightView lm_head_;
  MtpWeights weights_;
  offload::ExpertStore experts_;
  Workspace workspace_;
  LayerState state_;
  StepArrays arrays_;
  StepLimits limits_;
  int64_t tokens_ = 0;
  int64_t replayed_ = 0;
  int64_t drawn_ = 0;                      // ids of the chain, the first rows of ws.drawn
  int64_t last_drawn_ = 0;                 // of these, before the last step's
  const std::byte* main_ = nullptr;        // where from_main_ reads
  std::unique_ptr<StepGraphs> from_main_;  // nothing captured: nullptr
  std::unique_ptr<StepGraphs> from_own_;   // likewise
};

}  // namespace longshore::model
