#include "session/loaded_model.h"

#include <algorithm>
#include <charconv>

#include "model/memory_plan.h"
#include "session/device_options.h"

namespace longshore::session {
namespace {

Result<std::unique_ptr<kernels::Backend>> make_host_backend(const LoadOptions& options,
                                                            ThreadPool& pool) {
  if (options.precision == Precision::kReference) return kernels::make_reference_backend(pool);
  return kernels::make_cpu_backend(pool, options.cpu_isa);
}

// choice: what "auto" came to.
Result<std::unique_ptr<kernels::Backend>> make_backend(const LoadOptions& options, ThreadPool& pool,
                                                       std::string& choice) {
  if (options.backend) return options.backend(pool);
  LS_TRY(const std::optional<int> ordinal, cuda_ordinal(options.device));
  const bool reference = options.precision == Precision::kReference;
  if (ordinal && reference) {
    return fail(ErrorKind::kUsage,
                "--precision reference runs on the CPU only: leave out --device {} or use "
                "--precision production",
                options.device);
  }
  if (ordinal) return kernels::make_cuda_backend(cuda_options(options, *ordinal));
  if (options.device == "cpu") return make_host_backend(options, pool);
  if (reference) {
    choice = "cpu: --precision reference runs there only";
    return make_host_backend(options, pool);
  }
  auto cuda = kernels::make_cuda_backend(cuda_options(options, 0));
  choice = cuda ? "cuda" : fmt::format("cpu: {}", cuda.error().message);
  return cuda ? std::move(cuda) : make_host_backend(options, pool);
}

Result<Checkpoint> open_checkpoint(const LoadOptions& options, int threads,
                                   const Topology& topology, const LoadProgress& progress,
                                   const CancelToken& cancel) {
  if (options.synthetic.empty()) return Checkpoint::open(options.model);
  return Checkpoint::synthetic(options.synthetic, options.seed, threads, topology, progress,
                               cancel);
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

constexpr double kGiB = 1 << 30;

// Before the device is given anything.
Result<int64_t> ring_of(const Checkpoint& checkpoint, const device::Memory& memory) {
  const GlmConfig& config = checkpoint.config();
  LS_TRY(const offload::HostExperts experts,
         offload::HostExperts::bind(checkpoint, config.first_k_dense,
                                    config.num_layers - config.first_k_dense));
  if (experts.size() == 0) return offload::StoreOptions{}.ring;
  return offload::ring_for(memory.available(), offload::DeviceBank::block_bytes(experts));
}

// How much of a device the experts take. auto: what is left when everything else has its place and
// the driver some room.
Result<int64_t> expert_budget(const LoadedModel& loaded, const model::StepLimits& limits,
                              int64_t ring) {
  const LoadOptions& options = loaded.options;
  if (options.gpu_expert_gib) return static_cast<int64_t>(*options.gpu_expert_gib * kGiB);
  kernels::Backend& backend = *loaded.backend;
  const auto plan = [&](int64_t budget) {
    return model::plan_memory(*loaded.checkpoint, backend, limits, options.with_mtp,
                              {.budget_bytes = budget, .ring = ring}, options.max_total_tokens,
                              options.graphs, options.latents);
  };
  LS_TRY(const model::MemoryPlan all, plan(INT64_MAX));
  const int64_t available = backend.memory().available();
  if (all.total() <= available || backend.transfers() == nullptr) return INT64_MAX;
  LS_TRY(const model::MemoryPlan none, plan(0));
  constexpr int64_t kReserve = int64_t{512} << 20;
  return std::max<int64_t>(available - none.total() - kReserve, 0);
}

// Experts that are fetched come out of locked memory of the process's own.
Result<void> prepare_wire(LoadedModel& loaded, int threads, const LoadProgress& progress,
                          const CancelToken& cancel) {
  LS_TRY_VOID(loaded.checkpoint->read_into_memory(threads, loaded.topology, progress, cancel));
  LS_TRY(loaded.cpu_backend, kernels::make_cpu_backend(*loaded.pool, loaded.options.cpu_isa));
  for (const std::span<const std::byte> range : loaded.checkpoint->memory()) {
    const auto locked =
        loaded.backend->transfers()->pin(range.data(), static_cast<int64_t>(range.size()));
    if (locked) continue;
    loaded.notes.push_back(
        fmt::format("{}: experts are fetched from memory that is not locked, at a fraction of the "
                    "wire's speed; "
                    "raise the limit of locked memory (ulimit -l)",
                    locked.error().message));
    break;
  }
  return {};
}

// Model, MTP layer and the layout of their caches. A device is refused with the numbers before it
// is given anything; its weights are read ahead of their upload.
Result<void> load_model(LoadedModel& loaded, const model::StepLimits& limits, int threads,
                        const LoadProgress& progress, const CancelToken& cancel) {
  const LoadOptions& options = loaded.options;
  const Checkpoint& checkpoint = *loaded.checkpoint;
  kernels::Backend& backend = *loaded.backend;
  const bool host = backend.memory().host();
  const auto read_ahead = [&]() -> Result<void> {
    if (!options.synthetic.empty() || options.offload_meta) return {};
    return checkpoint.prefault(threads, progress, cancel);
  };
  // Pages of a mapped file lie where whoever read them first ran: with several nodes the weights
  // are read to where they are computed, before anything points at them.
  const bool placed =
      host && loaded.pool->nodes() > 1 && options.synthetic.empty() && !options.offload_meta;
  if (placed) {
    LS_TRY_VOID(loaded.checkpoint->read_into_memory(threads, loaded.topology, progress, cancel));
  }
  offload::StoreOptions offload;
  offload.group = options.offload_group;
  offload.meta = options.offload_meta;
  if (offload.meta && (options.with_text || options.with_mtp || offload.group.on())) {
    return fail(ErrorKind::kUsage,
                "--offload-mode meta has no expert weights, so nothing can be answered: it is for "
                "bench decode and prefill, without groups");
  }
  if (host && (options.gpu_expert_gib || options.offload_group.on())) {
    return fail(ErrorKind::kUsage,
                "{} is for a device, and everything is in host memory here: use --device cuda",
                options.gpu_expert_gib ? "--gpu-expert-gib" : "--offload-group-size");
  }
  if (!host) {
    LS_TRY(offload.ring, ring_of(checkpoint, backend.memory()));
    LS_TRY(offload.budget_bytes, expert_budget(loaded, limits, offload.ring));
    LS_TRY(const model::MemoryPlan plan,
           model::plan_memory(checkpoint, backend, limits, options.with_mtp, offload,
                              options.max_total_tokens, options.graphs, options.latents));
    LS_TRY_VOID(model::check_memory(plan, backend.memory()));
    if (plan.offloaded > 0 && !offload.meta) {
      if (options.moe_w8a8 && !options.offload_group.on()) {
        return fail(ErrorKind::kUsage,
                    "--moe-activations fp8: the CPU computes experts with 16-bit activations, and "
                    "{:.1f} GB of experts do not fit the device; use bf16",
                    static_cast<double>(plan.offloaded) / 1e9);
      }
      LS_TRY_VOID(prepare_wire(loaded, threads, progress, cancel));
      offload.cpu = loaded.cpu_backend.get();
    } else {
      LS_TRY_VOID(read_ahead());
    }
  }
  const GlmConfig& config = checkpoint.config();
  LS_TRY(loaded.model,
         model::Model::create(checkpoint, backend, limits,
                              model::target_options(offload, config, options.with_mtp)));
  if (options.with_mtp) {
    LS_TRY(loaded.mtp, model::Mtp::create(checkpoint, *loaded.model, backend, limits,
                                          model::draft_options(offload, config)));
  }
  loaded.layout =
      model::KvLayout::of(checkpoint.config(), backend, options.with_mtp, options.latents);
  return host && !placed ? read_ahead() : Result<void>();
}

Result<void> start_recording(LoadedModel& loaded) {
  if (loaded.options.record_routing.empty()) return {};
  const offload::HostExperts& experts = loaded.model->experts().experts();
  if (experts.size() == 0)
    return fail(ErrorKind::kUsage, "--record-routing: the model has no experts");
  LS_TRY(offload::TraceWriter writer,
         offload::TraceWriter::create(loaded.options.record_routing,
                                      static_cast<int32_t>(experts.layers()),
                                      static_cast<int32_t>(experts.per_layer())));
  loaded.routing = std::make_unique<offload::TraceWriter>(std::move(writer));
  return loaded.model->experts().record(loaded.routing.get());
}

}  // namespace

kernels::CudaOptions cuda_options(const LoadOptions& options, int ordinal) {
  // Experts of many tokens and products of long chunks want room for their intermediate results.
  constexpr int64_t kPerToken = int64_t{128} << 10;
  constexpr int64_t kLeast = int64_t{512} << 20;
  return {.device = ordinal,
          .scratch_bytes = std::max(kLeast, options.chunk * kPerToken),
          .moe_w8a8 = options.moe_w8a8,
          .moe_config_folder = options.moe_config_folder};
}

Result<std::optional<int>> cuda_ordinal(std::string_view device) {
  if (device == "cpu" || device == "auto") return std::nullopt;
  if (device == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  if (device.starts_with(kPrefix)) {
    const std::string_view digits = device.substr(kPrefix.size());
    int ordinal = -1;
    const auto [end, fault] =
        std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
    if (fault == std::errc() && end == digits.data() + digits.size() && ordinal >= 0)
      return ordinal;
  }
  return fail(ErrorKind::kUsage, "--device {}: use cpu, cuda, cuda:N or auto", device);
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const LoadOptions& asked,
                                                       const LoadProgress& progress,
                                                       const CancelToken& cancel) {
  auto loaded = std::make_unique<LoadedModel>();
  loaded->options = asked;
  loaded->options.with_mtp = asked.with_mtp || asked.speculative_steps > 0;
  const LoadOptions& options = loaded->options;
  const int threads = options.threads > 0 ? options.threads : available_cpus();
  if (options.numa) loaded->topology = options.topology ? *options.topology : machine_topology();
  loaded->pool = loaded->topology.size() > 1
                     ? std::make_unique<ThreadPool>(threads, loaded->topology)
                     : std::make_unique<ThreadPool>(threads, /*pin=*/true);
  LS_TRY(Checkpoint checkpoint,
         open_checkpoint(options, threads, loaded->topology, progress, cancel));
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
    loaded->constraints =
        std::make_unique<OutputConstraints>(*loaded->tokenizer, config.vocab_size);
  }
  LS_TRY(loaded->backend, make_backend(options, *loaded->pool, loaded->device_choice));
  if (options.with_mtp && config.num_mtp_layers == 0) {
    return fail(ErrorKind::kUsage,
                "{} has no MTP layer (num_nextn_predict_layers is 0): leave out {}",
                loaded->checkpoint->where(),
                options.speculative_steps > 0 ? "--speculative-num-steps" : "--mtp");
  }
  const int64_t chunk = std::min(options.chunk, context);
  const model::StepLimits limits{
      .tokens = chunk + options.max_running * (1 + options.speculative_steps),
      .sequences = options.max_running,
      .drafts = options.speculative_steps,
      .context = context};
  for (const int64_t rows : options.graphs.rows) {
    if (rows <= limits.sequences * (1 + limits.drafts)) continue;
    return fail(ErrorKind::kUsage, "--cuda-graph-bs {}: at most {} rows run together", rows,
                limits.sequences * (1 + limits.drafts));
  }
  LS_TRY_VOID(load_model(*loaded, limits, threads, progress, cancel));
  LS_TRY_VOID(start_recording(*loaded));
  const engine::EngineOptions engine_options{
      .context_length = context,
      .max_running = options.max_running,
      .prefill_budget = chunk,
      .pages = options.max_total_tokens / kernels::kPageTokens,
      .max_queued = options.max_queued,
      .prefix_cache = options.prefix_cache,
      .speculation = {.mtp = options.speculative_steps > 0 ? &*loaded->mtp : nullptr,
                      .max_steps = options.speculative_steps},
      .beside_share = options.beside_share};
  LS_TRY(loaded->engine,
         engine::Engine::create(*loaded->model, loaded->layout, *loaded->pool, engine_options));
  LS_TRY_VOID(loaded->model->capture_steps(loaded->engine->caches(), options.graphs));
  LS_TRY_VOID(loaded->engine->capture_drafts(options.graphs));
  if (options.graphs.on && !loaded->model->experts().concurrent()) {
    loaded->notes.push_back(
        "steps are not captured: the device does not go on while the host decides on experts "
        "(CUDA_LAUNCH_BLOCKING or CUDA_DEVICE_MAX_CONNECTIONS=1 is set)");
  }
  return loaded;
}

Result<void> LoadedModel::close_routing() {
  if (routing == nullptr) return {};
  LS_TRY_VOID(model->experts().record(nullptr));
  const std::unique_ptr<offload::TraceWriter> writer = std::move(routing);
  return writer->close();
}

}  // namespace longshore::session
