// Flags that several commands share. Names and defaults follow SGLang where the meaning is the
// same.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/sampler.h"
#include "session/loaded_model.h"

namespace longshore::cli {

// MODEL, --synthetic, --precision, --device, --cpu-isa, --threads, --numa, --kv-cache-dtype,
// --context-length, --chunked-prefill-size, --speculative-num-steps, --cuda-graph-*.
struct ModelFlags {
  std::string model;
  std::string synthetic;
  std::string precision = "production";
  std::string device = "cpu";
  std::string gpu_expert_gib = "auto";
  std::string record_routing;
  offload::GroupOptions offload_group;
  std::string offload_mode = "cpu";
  std::string moe_activations = "bf16";
  std::string kv_cache_dtype = "auto";
  std::string moe_config_folder = "auto";
  model::GraphOptions graphs;
  bool no_graphs = false;
  std::string cpu_isa = "auto";
  int threads = 0;
  std::string numa = "auto";
  int64_t context_length = 0;
  int64_t chunk = 512;
  int64_t speculative_steps = 0;

  void add_to(CLI::App& command);
  // --speculative-num-steps, for the commands that generate.
  void add_speculation_to(CLI::App& command);
  [[nodiscard]] Result<session::LoadOptions> load_options() const;
};

constexpr const char* kKvCacheHelp =
    "latents of the cache: auto (what the backend computes with: bf16, fp32 with --precision "
    "reference), bf16, or fp8_e4m3: at GLM-5.1's sizes 656 bytes a token and layer instead of 1152";
// The latents that --kv-cache-dtype names; nothing: auto. kUsage naming it.
[[nodiscard]] Result<std::optional<DType>> latent_dtype(const std::string& name);

// --temperature, --top-p, ...: what is not given comes from the checkpoint's
// generation_config.json.
struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty,
      frequency_penalty;
  std::optional<int32_t> top_k;
  std::optional<uint64_t> seed;
  int64_t max_tokens = -1;
  std::vector<std::pair<int32_t, float>> logit_bias;  // no flag: a line of --file gives it

  void add_to(CLI::App& command);
  // A seed that was not given is drawn from the system.
  [[nodiscard]] engine::SamplingParams merge(const engine::SamplingParams& defaults) const;
};

// Loads with a progress bar on stderr when that is a terminal. Warns of config keys that are not
// known.
Result<std::unique_ptr<session::LoadedModel>> load(const session::LoadOptions& options);

// The token that Ctrl-C and SIGTERM set. A second Ctrl-C ends the process at once.
[[nodiscard]] CancelToken& interrupt_token();
// Readable by poll() while the token is set. A wait for anything that leaves it out can miss the
// interrupt.
[[nodiscard]] int interrupt_descriptor();
// For the next piece of work of an interactive command.
void forget_interrupt();
void install_interrupt_handler();

// Prints "longshore: message" to stderr and gives the exit code.
[[nodiscard]] int report(const Error& error);

// Of one file, or one line of standard input.
constexpr int64_t kMaxInputBytes = int64_t{256} << 20;

// A whole file, or standard input for "-", of at most 256 MiB. kUsage, kCancelled.
Result<std::string> read_input(const std::string& path);

// An integer that fits a token id; nothing else.
[[nodiscard]] std::optional<int32_t> token_id(const nlohmann::json& value);

}  // namespace longshore::cli
