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
  LS_TRY_VOID(experts.join_shared(shared_experts(weights.layers)));
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
  const int64_t longest = longest_context(input.batch);
  if (graphs_ != nullptr) {
    if (const StepGraphs::Step* graph = graphs_->find(input, longest);
        graph != nullptr && experts_.capturable(graph->shape.rows))
      return replay(*graph, input, output);
  }
  const StepArrays::View arrays = arrays_.stage(input);
  Tap tap(input.observer, *backend_);
  StepContext step{*config_,     weights_.inv_freq, *backend_, workspace_, experts_,
                   arrays.batch, arrays.logit_rows, longest,   tap};
  LS_TRY_VOID(queue_layers(step, arrays.ids, input));
  LS_TRY_VOID(check_cancel(input));
  return run_head(step, weights_.norm, weights_.lm_head, input, output);
}

Result<void> Model::replay(const StepGraphs::Step& graph, const StepInput& input,
                           const StepOutput& output) {
  LS_TRY_VOID(check_cancel(input));
  (void)arrays_.stage(input, graph.shape);
  graphs_->launch(graph);
  ++replayed_;
  LS_TRY_VOID(experts_.serve(input.batch.tokens, graph.shape.rows, input.cancel));
  return fetch_head(*backend_, workspace_, input, output);
}

int64_t Model::captured_steps() const {
  return graphs_ == nullptr ? 0 : static_cast<int64_t>(graphs_->size());
}

Result<void> Model::capture_steps(std::span<const LayerCache> caches, const GraphOptions& options) {
  graphs_.reset();
  device::Graphs* graphs = StepGraphs::of(*backend_);
  const std::vector<StepShape> shapes = step_shapes(*config_, limits_, options);
  if (graphs == nullptr) return {};
  graphs_ = std::make_unique<StepGraphs>(*graphs, caches);
  // One token at the start of the first page, which nobody owns yet.
  const int32_t zero = 0;
  StepInput input;
  input.ids = &zero;
  input.batch = {.tokens = 1,
                 .sequences = 1,
                 .positions = &zero,
                 .sequence_of = &zero,
                 .page_table = &zero,
                 .page_table_width = 1};
  input.logit_rows = std::span(&zero, 1);
  input.caches = caches;
  Tap tap(nullptr, *backend_);
  for (const StepShape& shape : shapes) {
    if (!experts_.capturable(shape.rows)) continue;
    const StepArrays::View arrays = arrays_.stage(input, shape);
    StepContext step{
        *config_, weights_.inv_freq, *backend_,         workspace_,
        experts_, arrays.batch,      arrays.logit_rows, shape.pages * kernels::kPageTokens,
        tap};
    const auto queue = [&] {
      LS_CHECK(queue_layers(step, arrays.ids, input).has_value());  // nothing cancels it
      queue_head(step, weights_.norm, weights_.lm_head, shape.rows);
    };
    const offload::ExpertStore::Capturing capturing(experts_);
    // Once as it is: kernels load when they are first launched.
    queue();
    LS_TRY_VOID(backend_->synchronize());
    LS_TRY_VOID(graphs_->capture(shape, queue));
  }
  LS_TRY_VOID(backend_->synchronize());
  experts_.end_step();
  return {};
}

// input: caches and the token that cancels.
Result<void> Model::queue_layers(StepContext& step, const int32_t* ids, const StepInput& input) {
  const MatrixView x = workspace_.x.first(step.batch.tokens);
  backend_->embed({.ids = ids, .table = weights_.embed, .y = x});
  step.tap.hidden(-1, x);
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    LS_TRY_VOID(check_cancel(input));
    const auto i = static_cast<size_t>(layer);
    run_layer(step, weights_.layers[i], input.caches[i], layer);
  }
  return {};
}

}  // namespace longshore::model
