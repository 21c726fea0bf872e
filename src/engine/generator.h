// One generation at a time: prefill in chunks, then decode token by token, on one sequence that keeps its cache between
// calls, so that a conversation only computes what is new.
//
// Ownership: the model outlives the generator. Threading: one thread calls; cancellation may come from any.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/kv_pool.h"
#include "engine/sampler.h"
#include "model/model.h"

namespace longshore::engine {

struct GenerationRequest {
  std::vector<int32_t> prompt;    // at least one id, each in [0, vocab)
  SamplingParams sampling;
  int64_t max_tokens = -1;        // -1: as many as the context holds
  int64_t min_tokens = 0;         // stop ids cannot come before
  std::vector<int32_t> stop_ids;  // end of sequence; the id is the last of the output
  bool ignore_stop_ids = false;
};

enum class FinishReason { kStopId, kLength, kCallback, kCancelled };

struct GenerationStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the cache
  int64_t output_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of the output tokens after the first
};

struct GenerationResult {
  FinishReason reason = FinishReason::kLength;
  GenerationStats stats;
};

class Generator {
 public:
  struct Options {
    int64_t context_length = 0;  // tokens of prompt and output together
    int64_t chunk = 512;         // prefill tokens of one step; at most the model's max_step_tokens
  };
  static Result<Generator> create(model::Model& model, const model::KvLayout& layout, const Options& options);

  // on_token returns false to stop (a stop string was found). Errors (kUsage): empty prompt, prompt
  // longer than the context, prompt or stop ids outside the vocabulary, min_tokens, max_tokens or
  // sampling out of range.
  Result<GenerationResult> generate(const GenerationRequest& request,
                                    const std::function<bool(const Sampled&)>& on_token, const CancelToken& cancel);

  [[nodiscard]] int64_t context_length() const { return options_.context_length; }
  [[nodiscard]] const KvPool& pool() const { return pool_; }
  // Forgets the cached sequence.
  void reset();

 private:
  Generator(model::Model& model, Options options, KvPool pool);
  [[nodiscard]] Result<void> validate(const GenerationRequest& request) const;
  // Runs ids at the end of the cached sequence; logits_ then holds those after the last one.
  void step(std::span<const int32_t> ids);
  [[nodiscard]] int64_t reuse(std::span<const int32_t> prompt);
  bool prefill(std::span<const int32_t> prompt, const CancelToken& cancel);

  model::Model* model_;
  Options options_;
  KvPool pool_;
  std::vector<int32_t> cached_ids_;  // what the cache holds
  std::vector<int32_t> pages_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> sequence_of_;
  std::vector<float> logits_;        // [vocab]
};

}  // namespace longshore::engine
