#include "session/loaded_model.h"

#include <algorithm>

namespace longshore::session {
namespace {

Result<std::unique_ptr<kernels::Backend>> make_backend(const LoadOptions& options,
                                                       ThreadPool& pool) {
  if (options.precision == Precision::kReference) return kernels::make_reference_backend(pool);
  return kernels::make_cpu_backend(pool, options.cpu_isa);
}

Result<Checkpoint> open_checkpoint(const LoadOptions& options, int threads,
                                   const LoadProgress& progress, const CancelToken& cancel) {
  if (options.synthetic.empty()) return Checkpoint::open(options.model);
  return Checkpoint::synthetic(options.synthetic, options.seed, threads, progress, cancel);
}

Result<int64_t> choose_context(const LoadOptions& options, const GlmConfig& config) {
  if (options.context_length == 0) return std::min(config.max_positions, kDefaultContext);
  if (options.context_length < 0 || options.context_length > config.max_positions) {
    return fail(ErrorKind::kUsage, "--context-length {}: the model has {} positions",
                options.context_length, config.max_positions);
  }
  return options.context_length;
}

Result<void> load_text(LoadedModel& loaded) {
  const std::string& dir = loaded.options.model;
  LS_TRY(loaded.tokenizer, text::Tokenizer::load(dir + "/tokenizer.json"));
  if (loaded.tokenizer->vocab_size() > loaded.checkpoint->config().vocab_size) {
    return fail(ErrorKind::kModel,
                "{}/tokenizer.json: {} tokens, and config.json's vocab_size is {}: they belong to "
                "different models",
                dir, loaded.tokenizer->vocab_size(), loaded.checkpoint->config().vocab_size);
  }
  LS_TRY(loaded.chat_template, text::ChatTemplate::load(dir));
  return {};
}

// A stop id that no token has never comes: generation would go on past its end.
Result<void> check_stop_ids(const LoadedModel& loaded) {
  for (const int32_t id : loaded.defaults.eos_ids) {
    if (!loaded.tokenizer->bytes(id).empty()) continue;
    return fail(ErrorKind::kModel,
                "{}: eos_token_id {} of generation_config.json or config.json is no token of "
                "tokenizer.json: correct it",
                loaded.options.model, id);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const LoadOptions& options,
                                                       const LoadProgress& progress,
                                                       const CancelToken& cancel) {
  auto loaded = std::make_unique<LoadedModel>();
  loaded->options = options;
  const int threads = options.threads > 0 ? options.threads : available_cpus();
  loaded->pool = std::make_unique<ThreadPool>(threads, /*pin=*/true);
  LS_TRY(Checkpoint checkpoint, open_checkpoint(options, threads, progress, cancel));
  loaded->checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
  const GlmConfig& config = loaded->checkpoint->config();
  // All faults of the layout from the headers alone, before anything is read.
  if (const std::vector<std::string> problems = loaded->checkpoint->check_layout();
      !problems.empty()) {
    return fail(ErrorKind::kModel, "{}{}", problems.front(),
                problems.size() == 1
                    ? ""
                    : fmt::format(" (and {} more: see `longshore inspect`)", problems.size() - 1));
  }
  LS_TRY(const int64_t context, choose_context(options, config));
  if (options.with_text && options.synthetic.empty()) {
    LS_TRY_VOID(load_text(*loaded));
    LS_TRY(loaded->defaults, load_generation_defaults(options.model, config));
    LS_TRY_VOID(check_stop_ids(*loaded));
  }
  LS_TRY(loaded->backend, make_backend(options, *loaded->pool));
  const int64_t chunk = std::min(options.chunk, context);
  const int64_t step_tokens = chunk + options.max_running;
  LS_TRY(loaded->model, model::Model::create(*loaded->checkpoint, *loaded->backend, step_tokens));
  if (options.with_mtp) {
    if (config.num_mtp_layers == 0) {
      return fail(ErrorKind::kUsage,
                  "{} has no MTP layer (num_nextn_predict_layers is 0): leave out --mtp",
                  loaded->checkpoint->where());
    }
    LS_TRY(loaded->mtp,
           model::Mtp::create(*loaded->checkpoint, *loaded->model, *loaded->backend, step_tokens));
  }
  loaded->layout = model::KvLayout::of(config, *loaded->backend, options.with_mtp);
  if (options.synthetic.empty())
    LS_TRY_VOID(loaded->checkpoint->prefault(threads, progress, cancel));
  const engine::EngineOptions engine_options{
      .context_length = context,
      .max_running = options.max_running,
      .prefill_budget = chunk,
      .pages = options.max_total_tokens / kernels::kPageTokens,
      .max_queued = options.max_queued,
      .prefix_cache = options.prefix_cache};
  LS_TRY(loaded->engine,
         engine::Engine::create(*loaded->model, loaded->layout, *loaded->pool, engine_options));
  return loaded;
}

}  // namespace longshore::session
