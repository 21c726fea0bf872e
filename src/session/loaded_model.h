// Everything that a command needs of a model: checkpoint, backend, tokenizer, template, defaults,
// engine; loaded once.
//
// Ownership: LoadedModel owns all of it; it does not move. Threading: as its parts say.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "session/output_constraints.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace longshore::session {

enum class Precision { kReference, kProduction };

struct LoadOptions {
  std::string model;      // directory; or
  std::string synthetic;  // "glm-5.1:dense=D,moe=M"
  Precision precision = Precision::kProduction;
  std::string device = "cpu";  // cpu, cuda, cuda:N, or auto: cuda where it can be opened, else cpu
  std::string cpu_isa = "auto";
  // Device memory for routed experts, GiB; nothing: what weights, caches and activations leave.
  // What does not fit stays in host memory.
  std::optional<double> gpu_expert_gib;
  bool moe_w8a8 = false;                // FP8 activations where experts have many tokens
  std::optional<DType> latents;         // what the cache keeps them in; nothing: the backend's own
  std::string moe_config_folder;        // tuned tiles of the device's experts; empty: none
  model::GraphOptions graphs;           // decode steps that a device runs by one launch
  offload::GroupOptions offload_group;  // on: whole layers stream instead
  bool offload_meta = false;            // no expert weights: for measuring everything else
  std::string record_routing;           // a file for bench policy; empty: none
  int threads = 0;                      // 0: all CPUs of this process
  bool numa = true;                     // with several nodes, place weights where they are computed
  std::optional<Topology> topology;     // tests: instead of the machine's
  int64_t context_length = 0;           // 0: the model's, at most kDefaultContext
  int64_t chunk = 512;                  // prefill tokens of one step
  int64_t max_running = 16;             // sequences of one step
  int64_t max_queued = -1;              // -1: no limit
  int64_t max_total_tokens = 0;         // of the cache; 0: see engine::EngineOptions::pages
  bool prefix_cache = true;
  double beside_share = engine::EngineOptions().beside_share;
  bool with_text = true;  // tokenizer and template are needed
  bool with_mtp = false;
  int64_t speculative_steps = 0;  // depth of the MTP layer's drafts; 0: none
  uint64_t seed = 1;              // of synthetic weights
  // Tests and bench: makes the backend instead of precision, device and cpu_isa.
  std::function<std::unique_ptr<kernels::Backend>(ThreadPool&)> backend;
};

constexpr int64_t kDefaultContext = 32768;

// The ordinal of "cuda" or "cuda:N", nothing for "cpu" and "auto". kUsage: none of these.
[[nodiscard]] Result<std::optional<int>> cuda_ordinal(std::string_view device);

// generation_config.json: what the model's makers recommend.
struct GenerationDefaults {
  engine::SamplingParams sampling;
  std::vector<int32_t> eos_ids;
};

class LoadedModel {
 public:
  // Errors as the parts give them: kModel, kMemory, kDevice, kUsage, kCancelled.
  static Result<std::unique_ptr<LoadedModel>> load(const LoadOptions& options,
                                                   const LoadProgress& progress,
                                                   const CancelToken& cancel);

  LoadOptions options;
  Topology topology = one_node({0});  // one node where weights are not placed by node
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<kernels::Backend> cpu_backend;  // computes experts that the device lacks
  std::unique_ptr<offload::TraceWriter> routing;  // of record_routing, until close_routing()
  std::vector<std::string> notes;                 // what will be slow and why, a line each
  std::string device_choice;  // device "auto": what it chose and why, a line; else empty
  std::optional<model::Model> model;
  std::optional<model::Mtp> mtp;
  model::KvLayout layout;
  std::unique_ptr<engine::Engine> engine;
  std::optional<text::Tokenizer> tokenizer;         // with_text
  std::optional<text::ChatTemplate> chat_template;  // with_text
  std::unique_ptr<OutputConstraints> constraints;   // with_text
  GenerationDefaults defaults;

  // Ends the recording of routes; nothing to do where there is none. kIo.
  [[nodiscard]] Result<void> close_routing();
};

Result<GenerationDefaults> load_generation_defaults(const std::string& model_dir,
                                                    const GlmConfig& config);

}  // namespace longshore::session
