#include <utility>

#include "model/head.h"
#include "model/layer.h"
#include "model/model.h"

namespace longshore::model {

Mtp::Mtp(const GlmConfig& config, kernels::Backend& backend, MtpWeights weights, const Model& main,
         offload::ExpertStore experts, Workspace workspace, LayerState state, StepArrays arrays,
         const StepLimits& limits)
    : config_(&config),
      backend_(&backend),
      embed_(main.weights().embed),
      lm_head_(main.weights().lm_head),
      weights_(std::move(weights)),
      experts_(std::move(experts)),
      workspace_(std::move(workspace)),
      state_(std::move(state)),
      arrays_(std::move(arrays)),
      limits_(limits) {}

Result<Mtp> Mtp::create(const Checkpoint& checkpoint, const Model& main, kernels::Backend& backend,
                        const StepLimits& limits, offload::StoreOptions offload) {
  offload.max_tokens = limits.tokens;
  const GlmConfig& config = checkpoint.config();
  LS_TRY(MtpWeights weights, load_mtp_weights(checkpoint, backend));
  LS_TRY(offload::ExpertStore experts,
         offload::ExpertStore::create(checkpoint, config.num_layers, 1, backend, offload));
  LS_TRY_VOID(experts.join_shared(shared_experts(std::span(&weights.layer, 1))));
  LS_TRY(Workspace workspace, Workspace::create(config, backend, limits));
  LS_TRY(LayerState state, LayerState::create(config, backend, limits.tokens));
  LS_TRY(StepArrays arrays, StepArrays::create(config, backend, limits));
  return Mtp(config, backend, std::move(weights), main, std::move(experts), std::move(workspace),
             std::move(state), std::move(arrays), limits);
}

Result<void> Mtp::forward(const StepInput& input, ConstMatrixView hidden,
                          const StepOutput& output) {
  experts_.begin_step(input.batch.tokens);
  auto done = run(input, hidden, output);
  if (!done) (void)backend_->synchronize();
  experts_.end_step(input.batch.tokens);
  return done;
}

void Mtp::check(const StepInput& input, ConstMatrixView hidden) const {
  const int64_t tokens = input.batch.tokens;
  LS_CHECK(tokens >= 1 && hidden.cols == config_->hidden_size);
  LS_CHECK(input.hidden_rows != nullptr || hidden.rows == tokens);
  for (int64_t t = 0; input.hidden_rows != nullptr && t < tokens; ++t)
    LS_CHECK(input.hidden_rows[t] >= 0 && input.hidden_rows[t] < hidden.rows);
  LS_CHECK(static_cast<int64_t>(input.caches.size()) == config_->num_layers + 1);
}

StepContext Mtp::context(const StepArrays::View& arrays, int64_t longest_context, Tap& tap) {
  return {*config_, weights_.inv_freq, *backend_,         workspace_,      state_,
          experts_, arrays.batch,      arrays.logit_rows, longest_context, tap};
}

Result<void> Mtp::run(const StepInput& input, ConstMatrixView hidden, const StepOutput& output) {
  LS_TRY_VOID(check_cancel(input));
  check(input, hidden);
  tokens_ = input.batch.tokens;
  if (const Captured captured = find(input, hidden); captured.step != nullptr)
    return replay(*captured.graphs, *captured.step, input, output);
  const StepArrays::View arrays = arrays_.stage(input);
  Tap tap(input.observer, *backend_);
  StepContext step = context(arrays, longest_context(input.batch), tap);
  queue(step, arrays, hidden, input.caches.back());
  LS_TRY_VOID(check_cancel(input));
  return run_head(step, weights_.head_norm, lm_head_, input, output);
}

bool Mtp::draws() const {
  return !backend_->memory().host() && experts_.whole_on_device();
}

Result<void> Mtp::draw(const StepInput& input, ConstMatrixView hidden,
                       std::span<const kernels::DrawRule> rules) {
  LS_TRY_VOID(check_cancel(input));
  check(input, hidden);
  const auto rows = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(draws() && rows >= 1 && static_cast<int64_t>(rules.size()) == rows);
  LS_CHECK(drawn_ == 0 || (rows == input.batch.tokens && rows <= drawn_ - last_drawn_));
  tokens_ = input.batch.tokens;
  experts_.begin_step(tokens_);
  LS_TRY_VOID(queue_draw_step(input, hidden));
  experts_.end_step(tokens_);
  model::queue_draw(*backend_, workspace_, workspace_.logits.first(rows), rules,
                    workspace_.drawn.first(drawn_ + rows).slice_rows(drawn_, rows));
  last_drawn_ = std::exchange(drawn_, drawn_ + rows);
  return {};
}

Result<void> Mtp::queue_draw_step(const StepInput& input, ConstMatrixView hidden) {
  const Captured captured = find(input, hidden);
  const StepArrays::View arrays =
      captured.step == nullptr ? arrays_.stage(input) : arrays_.stage(input, captured.step->shape);
  if (drawn_ > 0) {
    arrays_.take_ids(arrays,
                     workspace_.drawn.first(drawn_).slice_rows(last_drawn_, drawn_ - last_drawn_));
  }
  if (captured.step != nullptr) {
    captured.graphs->launch(*captured.step);
    ++replayed_;
    return experts_.serve(tokens_, captured.step->shape.rows, nullptr);
  }
  Tap tap(nullptr, *backend_);
  StepContext step = context(arrays, longest_context(input.batch), tap);
  queue(step, arrays, hidden, input.caches.back());
  queue_head(step, weights_.head_norm, lm_head_, static_cast<int64_t>(input.logit_rows.size()));
  return {};
}

Result<void> Mtp::take_drawn(std::span<int32_t> ids) {
  const int64_t count = std::exchange(drawn_, 0);
  last_drawn_ = 0;
  if (ids.empty()) return backend_->synchronize();
  LS_CHECK(static_cast<int64_t>(ids.size()) == count);
  return fetch(*backend_, workspace_.drawn.first(count),
               {reinterpret_cast<std::byte*>(ids.data()), DType::kI32, count, 1, 1});
}

void Mtp::queue(StepContext& step, const StepArrays::View& arrays, ConstMatrixView hidden,
                const LayerCache& cache) {
  const int64_t tokens = step.batch.tokens;
  const MatrixView x = state_.x.first(tokens);
  const MatrixView joined = workspace_.mtp_input.first(tokens);
  const float eps = config_->rms_norm_eps;
  // Before x is written: hidden may be this layer's own.
  if (arrays.hidden_rows != nullptr) {
    const MatrixView gathered = workspace_.mtp_hidden.first(tokens);
    backend_->gather_rows({.x = hidden, .rows = arrays.hidden_rows, .y = gathered});
    hidden = gathered;
  }
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
  run_layer(step, weights_.layer, cache, config_->num_layers);
}

Mtp::Captured Mtp::find(const StepInput& input, ConstMatrixView hidden) const {
  if (input.hidden_rows == nullptr || from_own_ == nullptr) return {};
  StepGraphs* graphs = hidden.data == main_                    ? from_main_.get()
                       : hidden.data == state_.x.first(1).data ? from_own_.get()
                                                               : nullptr;
  if (graphs == nullptr) return {};
  const StepGraphs::Step* step = graphs->find(input, longest_context(input.batch));
  if (step == nullptr || !experts_.capturable(step->shape.rows)) return {};
  return {graphs, step};
}

Result<void> Mtp::replay(StepGraphs& graphs, const StepGraphs::Step& graph, const StepInput& input,
                         const StepOutput& output) {
  (void)arrays_.stage(input, graph.shape);
  graphs.launch(graph);
  ++replayed_;
  LS_TRY_VOID(experts_.serve(input.batch.tokens, graph.shape.rows, input.cancel));
  return fetch_head(*backend_, workspace_, state_, input, output);
}

Result<void> Mtp::capture_steps(std::span<const LayerCache> caches, ConstMatrixView hidden_place,
                                const GraphOptions& options) {
  from_main_.reset();
  from_own_.reset();
  device::Graphs* graphs = StepGraphs::of(*backend_);
  if (graphs == nullptr || !options.on) return {};
  LS_CHECK(static_cast<int64_t>(caches.size()) == config_->num_layers + 1);
  // One token at the start of the first page, which nobody owns yet.
  const int32_t zero = 0;
  StepInput example;
  example.ids = &zero;
  example.batch = {.tokens = 1,
                   .sequences = 1,
                   .positions = &zero,
                   .sequence_of = &zero,
                   .page_table = &zero,
                   .page_table_width = 1};
  example.logit_rows = std::span(&zero, 1);
  example.hidden_rows = &zero;
  example.caches = caches;
  main_ = hidden_place.data;
  from_main_ = std::make_unique<StepGraphs>(*graphs, caches);
  from_own_ = std::make_unique<StepGraphs>(*graphs, caches);
  LS_TRY_VOID(capture_from(hidden_place, example, options, *from_main_));
  LS_TRY_VOID(capture_from(state_.x.first(limits_.tokens), example, options, *from_own_));
  LS_TRY_VOID(backend_->synchronize());
  experts_.end_step(/*tokens=*/1);
  return {};
}

Result<void> Mtp::capture_from(ConstMatrixView hidden, const StepInput& example,
                               const GraphOptions& options, StepGraphs& graphs) {
  Tap tap(nullptr, *backend_);
  for (const StepShape& shape : step_shapes(*config_, limits_, options)) {
    if (!experts_.capturable(shape.rows)) continue;
    const StepArrays::View arrays = arrays_.stage(example, shape);
    StepContext step = context(arrays, shape.pages * kernels::kPageTokens, tap);
    const auto all = [&] {
      queue(step, arrays, hidden, example.caches.back());
      queue_head(step, weights_.head_norm, lm_head_, shape.rows);
    };
    const offload::ExpertStore::Capturing capturing(experts_);
    // Once as it is: kernels load when they are first launched.
    all();
    LS_TRY_VOID(backend_->synchronize());
    LS_TRY_VOID(graphs.capture(shape, all));
  }
  return {};
}

}  // namespace longshore::model
