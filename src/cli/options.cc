#include "cli/options.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include <sys/eventfd.h>
#include <unistd.h>

#include "cli/progress.h"
#include "cli/standard_input.h"
#include "kernels/moe_folder.h"

namespace longshore::cli {
namespace {

CancelToken g_interrupt;

// Readable from the first interrupt on: whoever waits for something else waits for this too.
int g_interrupt_descriptor = -1;

void on_signal(int signal) {
  if (g_interrupt.cancelled()) _exit(128 + signal);
  g_interrupt.cancel();
  const int fault = errno;
  const uint64_t one = 1;
  (void)!write(g_interrupt_descriptor, &one, sizeof one);
  errno = fault;
}

Result<std::string> read_all(std::istream& stream, const std::string& name) {
  std::string text;
  std::string piece(size_t{1} << 20, '\0');
  while (stream.read(piece.data(), static_cast<std::streamsize>(piece.size())) ||
         stream.gcount() > 0) {
    text.append(piece, 0, static_cast<size_t>(stream.gcount()));
    if (static_cast<int64_t>(text.size()) <= kMaxInputBytes) continue;
    return fail(ErrorKind::kUsage, "{}: more than {} MiB: split it", name, kMaxInputBytes >> 20);
  }
  return text;
}

}  // namespace

void ModelFlags::add_to(CLI::App& command) {
  command.add_option("MODEL,--model,--model-path", model, "model directory in Hugging Face layout");
  command.add_option("--synthetic", synthetic, "generated weights instead: glm-5.1:dense=D,moe=M")
      ->type_name("SPEC");
  command
      .add_option("--precision", precision,
                  "arithmetic: reference (fp32) or production (bf16 activations)")
      ->capture_default_str();
  command
      .add_option("--device", device,
                  "cpu, cuda, cuda:N, or auto: cuda where it can be opened, else cpu")
      ->capture_default_str();
  command
      .add_option("--gpu-expert-gib", gpu_expert_gib,
                  "device memory for routed experts: auto, or GiB; what does not fit stays in host "
                  "memory")
      ->capture_default_str();
  command
      .add_option("--offload-group-size", offload_group.group_size,
                  "whole layers of experts stream: layers of a group; -1: off")
      ->capture_default_str();
  command
      .add_option("--offload-num-in-group", offload_group.num_in_group,
                  "offloaded layers of each group, its last ones")
      ->capture_default_str();
  command
      .add_option("--offload-prefetch-step", offload_group.prefetch_step,
                  "offloaded layers that are on the device at a time")
      ->capture_default_str();
  command
      .add_option(
          "--moe-activations", moe_activations,
          "bf16, or fp8: experts with many tokens on a device that holds them all, a shared "
          "expert that joins them included")
      ->capture_default_str();
  command.add_option("--kv-cache-dtype", kv_cache_dtype, kKvCacheHelp)->capture_default_str();
  command
      .add_option("--moe-config-folder", moe_config_folder,
                  "tuned tiles of the device's experts, files named as SGLang's and vLLM's; auto: "
                  "those beside the program, which tune writes; none")
      ->capture_default_str();
  command.add_flag("--disable-cuda-graph", no_graphs,
                   "queue every operation of a decode step alone");
  command
      .add_option("--cuda-graph-max-bs", graphs.max_rows,
                  "most tokens of a captured decode step; 0: as many as run together, at most 32")
      ->check(CLI::Range(0, 65536));
  command.add_option("--cuda-graph-bs", graphs.rows, "numbers of tokens to capture steps for")
      ->check(CLI::Range(1, 65536));
  command
      .add_option("--offload-mode", offload_mode,
                  "cpu: pinned host memory; meta: no expert weights, for bench alone")
      ->capture_default_str();
  command.add_option("--record-routing", record_routing,
                     "write the experts that every step chose to this file, for bench policy");
  command
      .add_option("--cpu-isa", cpu_isa, "auto, or one of amx, avx512bf16, avx512, avx2, generic")
      ->capture_default_str();
  command.add_option("--threads", threads, "threads that compute; 0: all CPUs")
      ->capture_default_str();
  command
      .add_option("--numa", numa,
                  "auto: with several memory nodes, weights lie where they are computed; off")
      ->capture_default_str();
  command
      .add_option("--context-length", context_length,
                  "tokens of prompt and answer; 0: the model's, at most 32768")
      ->capture_default_str();
  command.add_option("--chunked-prefill-size", chunk, "prompt tokens of one step")
      ->capture_default_str();
}

void ModelFlags::add_speculation_to(CLI::App& command) {
  command
      .add_option(
          "--speculative-num-steps", speculative_steps,
          "tokens that the MTP layer drafts ahead at most; each step drafts as many as pay, "
          "and the output is the same. 0: none")
      ->capture_default_str();
}

Result<session::LoadOptions> ModelFlags::load_options() const {
  constexpr int64_t kDeepest = 8;
  if (speculative_steps < 0 || speculative_steps > kDeepest)
    return fail(ErrorKind::kUsage, "--speculative-num-steps {}: use 0 to {}", speculative_steps,
                kDeepest);
  if (model.empty() == synthetic.empty()) {
    return fail(ErrorKind::kUsage, "give either MODEL, a directory, or --synthetic SPEC");
  }
  LS_TRY_VOID(session::cuda_ordinal(device));
  if (threads < 0 || threads > 1024)
    return fail(ErrorKind::kUsage, "--threads {}: use 0 to 1024", threads);
  if (numa != "auto" && numa != "off")
    return fail(ErrorKind::kUsage, "--numa {}: use auto or off", numa);
  if (chunk < 1 || chunk > 65536)
    return fail(ErrorKind::kUsage, "--chunked-prefill-size {}: use 1 to 65536", chunk);
  session::LoadOptions options;
  if (precision == "reference") {
    options.precision = session::Precision::kReference;
  } else if (precision != "production") {
    return fail(ErrorKind::kUsage, "--precision {}: use reference or production", precision);
  }
  options.model = model;
  options.synthetic = synthetic;
  options.device = device;
  if (gpu_expert_gib != "auto") {
    double gib = 0;
    const auto [end, fault] =
        std::from_chars(gpu_expert_gib.data(), gpu_expert_gib.data() + gpu_expert_gib.size(), gib);
    if (fault != std::errc() || end != gpu_expert_gib.data() + gpu_expert_gib.size() ||
        !(gib >= 0 && gib <= 1e6)) {
      return fail(ErrorKind::kUsage, "--gpu-expert-gib {}: use auto or a number of GiB from 0",
                  gpu_expert_gib);
    }
    options.gpu_expert_gib = gib;
  }
  options.record_routing = record_routing;
  if (offload_mode != "cpu" && offload_mode != "meta") {
    return fail(ErrorKind::kUsage,
                "--offload-mode {}: only cpu (pinned host memory) and meta (no expert weights, for "
                "bench) are there; shm_cpu and sharded_gpu are not",
                offload_mode);
  }
  if (moe_activations != "bf16" && moe_activations != "fp8")
    return fail(ErrorKind::kUsage, "--moe-activations {}: use bf16 or fp8", moe_activations);
  options.moe_w8a8 = moe_activations == "fp8";
  LS_TRY(options.latents, latent_dtype(kv_cache_dtype));
  if (moe_config_folder == "auto") {
    options.moe_config_folder = kernels::shipped_moe_configs();
  } else if (moe_config_folder != "none") {
    options.moe_config_folder = moe_config_folder;
  }
  options.graphs = graphs;
  options.graphs.on = !no_graphs;
  LS_TRY_VOID(offload_group.validate());
  options.offload_group = offload_group;
  options.offload_meta = offload_mode == "meta";
  options.cpu_isa = cpu_isa;
  options.threads = threads;
  options.numa = numa == "auto";
  options.context_length = context_length;
  options.chunk = chunk;
  options.speculative_steps = speculative_steps;
  return options;
}

Result<std::optional<DType>> latent_dtype(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  if (name == "fp8_e4m3") return DType::kF8E4M3;
  if (name == "fp8_e5m2" || name == "fp4_e2m1") {
    return fail(ErrorKind::kUsage,
                "--kv-cache-dtype {}: there are no kernels for it; use auto, bf16 or fp8_e4m3",
                name);
  }
  return fail(ErrorKind::kUsage, "--kv-cache-dtype {}: use auto, bf16, bfloat16 or fp8_e4m3", name);
}

void SamplingFlags::add_to(CLI::App& command) {
  command.add_option("--max-tokens", max_tokens, "tokens of the answer; -1: as many as fit")
      ->capture_default_str();
  command.add_option("--temperature", temperature, "0: greedy");
  command.add_option("--top-p", top_p);
  command.add_option("--top-k", top_k, "-1: off");
  command.add_option("--min-p", min_p);
  command.add_option("--repetition-penalty", repetition_penalty);
  command.add_option("--presence-penalty", presence_penalty);
  command.add_option("--frequency-penalty", frequency_penalty);
  const CLI::Validator whole(
      [](std::string& text) -> std::string {
        uint64_t number = 0;
        const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (fault == std::errc() && end == text.data() + text.size()) return "";
        return text + " is not a whole number from 0 to 18446744073709551615";
      },
      "");
  command.add_option("--seed", seed)->check(whole);
}

engine::SamplingParams SamplingFlags::merge(const engine::SamplingParams& defaults) const {
  engine::SamplingParams params = defaults;
  params.temperature = temperature.value_or(defaults.temperature);
  params.logit_bias = logit_bias;
  params.top_p = top_p.value_or(defaults.top_p);
  params.top_k = top_k.value_or(defaults.top_k);
  params.min_p = min_p.value_or(defaults.min_p);
  params.repetition_penalty = repetition_penalty.value_or(defaults.repetition_penalty);
  params.presence_penalty = presence_penalty.value_or(defaults.presence_penalty);
  params.frequency_penalty = frequency_penalty.value_or(defaults.frequency_penalty);
  params.seed = seed ? *seed : std::random_device{}();
  return params;
}

Result<std::unique_ptr<session::LoadedModel>> load(const session::LoadOptions& options) {
  ByteProgress bar(options.synthetic.empty() ? "loading" : "generating weights");
  auto loaded = session::LoadedModel::load(
      options, [&](int64_t done, int64_t total) { bar.update(done, total); }, interrupt_token());
  bar.finish();
  if (!loaded) return loaded;
  if (const std::string& choice = (*loaded)->device_choice; !choice.empty())
    std::fprintf(stderr, "longshore: --device auto: %s\n", choice.c_str());
  for (const std::string& note : (*loaded)->notes)
    std::fprintf(stderr, "longshore: warning: %s\n", note.c_str());
  for (const std::string& key : (*loaded)->checkpoint->config().unknown_keys) {
    std::fprintf(stderr,
                 "longshore: warning: %s/config.json: the key %s is not known and not used\n",
                 (*loaded)->checkpoint->where().c_str(), key.c_str());
  }
  const std::vector<std::string> ignored = (*loaded)->checkpoint->contradicted_indexers();
  for (const std::string& line : ignored)
    std::fprintf(stderr, "longshore: warning: %s\n", line.c_str());
  return loaded;
}

CancelToken& interrupt_token() {
  return g_interrupt;
}

int interrupt_descriptor() {
  return g_interrupt_descriptor;
}

void forget_interrupt() {
  uint64_t count = 0;
  (void)!read(g_interrupt_descriptor, &count, sizeof count);
  g_interrupt.reset();
}

void install_interrupt_handler() {
  g_interrupt_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  LS_CHECK(g_interrupt_descriptor >= 0);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A reader that goes away is an error of write(), not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
}

int report(const Error& error) {
  std::fprintf(stderr, "longshore: %s\n", error.message.c_str());
  return exit_code(error.kind);
}

Result<std::string> read_input(const std::string& path) {
  if (path == "-") return read_standard_input();
  std::ifstream stream(path, std::ios::binary);
  std::error_code ignored;
  if (!stream || std::filesystem::is_directory(path, ignored)) {
    return fail(ErrorKind::kUsage, "{}: cannot read it: check the path", path);
  }
  return read_all(stream, path);
}

std::optional<int32_t> token_id(const nlohmann::json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  constexpr int64_t kHighest = std::numeric_limits<int32_t>::max();
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kHighest))
    return std::nullopt;
  const auto id = value.get<int64_t>();
  if (id < std::numeric_limits<int32_t>::min()) return std::nullopt;
  return static_cast<int32_t>(id);
}

}  // namespace longshore::cli
