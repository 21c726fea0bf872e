#include "model/model.h"

#include <utility>

#include "model/head.h"
#include "model/layer.h"
#include "model/memory_plan.h"

namespace longshore::model {

Model::Model(const GlmConfig& config, kernels::Backend& backend, const StepLimits& limits,
             ModelWeights weights, offload::ExpertStore experts, Workspace workspace)
    : config_(&config),
      backend_(&backend),
      limits_(limits),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)) {}

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
  const StepLimits beside = beside_limits(limits, offload, experts.device() != nullptr);
  Model model(config, backend, limits, std::move(weights), std::move(experts),
              std::move(workspace));
  LS_TRY(model.main_, make_place(config, backend, limits));
  if (beside.tokens > 0) {
    LS_TRY(model.beside_, make_place(config, backend, beside));
  }
  return model;
}

Result<Model::Place> Model::make_place(const GlmConfig& config, kernels::Backend& backend,
                                       const StepLimits& limits) {
  Place place;
  LS_TRY(place.state, LayerState::create(config, backend, limits.tokens));
  LS_TRY(place.arrays, StepArrays::create(config, backend, limits));
  return place;
}

StepContext Model::context(Place& place, const StepArrays::View& arrays, int64_t longest_context,
                           Tap& tap) {
  return {*config_, weights_.inv_freq, *backend_,         workspace_,      place.state,
          experts_, arrays.batch,      arrays.logit_rows, longest_context, tap};
}

Result<void> Model::forward(const StepInput& input, const StepOutput& output) {
  LS_CHECK_MSG(!pass_ || input.batch.tokens <= beside_tokens(),
               "a step of {} tokens beside a pass, and {} may be", input.batch.tokens,
               beside_tokens());
  experts_.begin_step(input.batch.tokens);
  auto done = run(input, output);
  // Cut short or failed, the layers that began are waited for all the same: the experts' slots are
  // theirs until then.
  if (!done) (void)backend_->synchronize();
  experts_.end_step(input.batch.tokens);
  return done;
}

Result<void> Model::run(const StepInput& input, const StepOutput& output) {
  LS_CHECK(input.batch.tokens >= 1);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) >= config_->num_layers);
  tokens_ = input.batch.tokens;
  last_beside_ = goes_beside(tokens_);
  const int64_t longest = longest_context(input.batch);
  // Beside a pass a step is not captured: the pass goes on between its layers where it must.
  if (graphs_ != nullptr && !pass_) {
    if (const StepGraphs::Step* graph = graphs_->find(input, longest);
        graph != nullptr && experts_.capturable(graph->shape.rows))
      return replay(*graph, input, output);
  }
  Place& place = place_of(tokens_);
  const StepArrays::View arrays = place.arrays.stage(input);
  Tap tap(input.observer, *backend_);
  StepContext step = context(place, arrays, longest, tap);
  LS_TRY_VOID(queue_layers(step, arrays.ids, input));
  LS_TRY_VOID(check_cancel(input));
  return run_head(step, weights_.norm, weights_.lm_head, input, output);
}

Result<void> Model::replay(const StepGraphs::Step& graph, const StepInput& input,
                           const StepOutput& output) {
  LS_TRY_VOID(check_cancel(input));
  Place& place = place_of(graph.shape.rows);
  last_beside_ = goes_beside(graph.shape.rows);
  (void)place.arrays.stage(input, graph.shape);
  graphs_->launch(graph);
  ++replayed_;
  LS_TRY_VOID(experts_.serve(input.batch.tokens, graph.shape.rows, input.cancel));
  return fetch_head(*backend_, workspace_, place.state, input, output);
}

bool Model::pausable(int64_t tokens) const {
  return tokens <= limits_.tokens && tokens > beside_tokens() && beside_tokens() > 0;
}

int64_t Model::beside_tokens() const {
  return beside_ && experts_.device()->has_cpu() ? beside_->state.x.max_tokens() : 0;
}

void Model::begin_pass(const StepInput& input) {
  LS_CHECK(!pass_ && pausable(input.batch.tokens) && input.observer == nullptr &&
           input.cancel == nullptr);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) >= config_->num_layers);
  experts_.begin_step(input.batch.tokens);
  experts_.pause_layers();
  pass_ = {input, main_.arrays.stage(input), longest_context(input.batch)};
  Tap tap(nullptr, *backend_);
  StepContext step = context(main_, pass_->arrays, pass_->longest, tap);
  queue_embed(step, pass_->arrays.ids);
}

bool Model::advance_pass() {
  LS_CHECK(pass_);
  experts_.finish_layer();
  Tap tap(nullptr, *backend_);
  StepContext step = context(main_, pass_->arrays, pass_->longest, tap);
  while (pass_->queued_layers < config_->num_layers) {
    const int64_t layer = pass_->queued_layers++;
    LS_CHECK(queue_layer(step, pass_->input, layer).has_value());  // nothing cancels it
    const bool last = pass_->queued_layers == config_->num_layers;
    // Behind a dense layer the wire has had nothing new.
    if (experts_.layer_pauses() || (layer >= config_->first_k_dense && !last)) return true;
  }
  return false;
}

double Model::await_pass() {
  LS_CHECK(pass_);
  return experts_.await_stream();
}

Result<void> Model::finish_pass(const StepOutput& output) {
  LS_CHECK(pass_ && pass_->queued_layers == config_->num_layers && !experts_.layer_pauses());
  Tap tap(nullptr, *backend_);
  StepContext step = context(main_, pass_->arrays, pass_->longest, tap);
  auto done = run_head(step, weights_.norm, weights_.lm_head, pass_->input, output);
  if (!done) (void)backend_->synchronize();  // as forward() does
  tokens_ = pass_->input.batch.tokens;
  last_beside_ = false;
  end_pass();
  return done;
}

void Model::abandon_pass() {
  LS_CHECK(pass_);
  (void)backend_->synchronize();
  end_pass();
}

void Model::end_pass() {
  experts_.end_step(pass_->input.batch.tokens);
  pass_.reset();
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
    Place& place = place_of(shape.rows);
    const StepArrays::View arrays = place.arrays.stage(input, shape);
    StepContext step = context(place, arrays, shape.pages * kernels::kPageTokens, tap);
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
  experts_.end_step(/*tokens=*/1);
  return {};
}

// input: caches and the token that cancels.
Result<void> Model::queue_layers(StepContext& step, const int32_t* ids, const StepInput& input) {
  queue_embed(step, ids);
  for (int64_t layer = 0; layer < config_->num_layers; ++layer) {
    if (pass_) keep_wire_busy();
    LS_TRY_VOID(queue_layer(step, input, layer));
  }
  return {};
}

// A step of many layers lasts longer than what the wire has to do in a pause.
void Model::keep_wire_busy() {
  const bool ends = pass_->queued_layers == config_->num_layers && !experts_.layer_pauses();
  if (ends || experts_.wire_lasts()) return;
  experts_.leave_beside();
  (void)advance_pass();
  experts_.enter_beside();
}

void Model::queue_embed(StepContext& step, const int32_t* ids) {
  const MatrixView x = step.state.x.first(step.batch.tokens);
  backend_->embed({.ids = ids, .table = weights_.embed, .y = x});
  step.tap.hidden(-1, x);
}

Result<void> Model::queue_layer(StepContext& step, const StepInput& input, int64_t layer) {
  LS_TRY_VOID(check_cancel(input));
  const auto i = static_cast<size_t>(layer);
  run_layer(step, weights_.layers[i], input.caches[i], layer);
  return {};
}

}  // namespace longshore::model
