// Everything that a command needs of a model: checkpoint, backend, tokenizer, template, defaults,
// engine; loaded once.
//
// Ownership: LoadedModel owns all of it; it does not move. Threading: as its parts say.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace longshore::session {

enum class Precision { kReference, kProduction };

struct LoadOptions {
  std::string model;      // directory; or
  std::string synthetic;  // "glm-5.1:dense=D,moe=M"
  Precision precision = Precision::kProduction;
  std::string cpu_isa = "auto";
  int threads = 0;               // 0: all CPUs of this process
  int64_t context_length = 0;    // 0: the model's, at most kDefaultContext
  int64_t chunk = 512;           // prefill tokens of one step
  int64_t max_running = 16;      // sequences of one step
  int64_t max_queued = -1;       // -1: no limit
  int64_t max_total_tokens = 0;  // of the cache; 0: see engine::EngineOptions::pages
  bool prefix_cache = true;
  bool with_text = true;  // tokenizer and template are needed
  bool with_mtp = false;
  uint64_t seed = 1;  // of synthetic weights
};

constexpr int64_t kDefaultContext = 32768;

// generation_config.json: what the model's makers recommend.
struct GenerationDefaults {
  engine::SamplingParams sampling;
  std::vector<int32_t> eos_ids;
};

class LoadedModel {
 public:
  // Errors as the parts give them: kModel, kMemory, kUsage, kCancelled.
  static Result<std::unique_ptr<LoadedModel>> load(const LoadOptions& options,
                                                   const LoadProgress& progress,
                                                   const CancelToken& cancel);

  LoadOptions options;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> backend;
  std::optional<model::Model> model;
  std::optional<model::Mtp> mtp;
  model::KvLayout layout;
  std::unique_ptr<engine::Engine> engine;
  std::optional<text::Tokenizer> tokenizer;         // with_text
  std::optional<text::ChatTemplate> chat_template;  // with_text
  GenerationDefaults defaults;
};

Result<GenerationDefaults> load_generation_defaults(const std::string& model_dir,
                                                    const GlmConfig& config);

}  // namespace longshore::session
