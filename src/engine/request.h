// What the engine is asked for and what it answers: token ids in, token ids out.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "engine/constraint.h"
#include "engine/sampler.h"

namespace longshore::engine {

using RequestId = uint64_t;

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one id, each in [0, vocab)
  SamplingParams sampling;
  int64_t max_tokens = -1;        // -1: as many as the context holds
  int64_t min_tokens = 0;         // stop ids cannot come before
  std::vector<int32_t> stop_ids;  // end of sequence; the id is the last of the output
  bool ignore_stop_ids = false;
  // What the output must be; null: anything. A stop id that it waits for is not banned by
  // min_tokens.
  std::shared_ptr<const ConstraintSource> constraint;
  // Prefixes are shared only between requests of the same salt.
  uint64_t cache_salt = 0;
  std::optional<std::chrono::steady_clock::time_point> deadline;  // kDeadline after it
};

enum class FinishReason {
  kStopId,
  kLength,
  kCallback,   // on_token said so: a stop string, say
  kCancelled,  // Engine::cancel
  kDeadline,
  kFault,  // of the model or the device: GenerationResult::error says what
};

struct GenerationStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the cache when it was first admitted
  int64_t output_tokens = 0;
  int64_t drafted = 0;         // guesses that the target looked at
  int64_t accepted = 0;        // of these, right: tokens that took no step of their own
  int64_t preemptions = 0;     // times its pages were taken for an older request
  double queue_seconds = 0;    // submitted to first admitted
  double prefill_seconds = 0;  // first admitted to first token
  double decode_seconds = 0;   // first token to last
};

struct GenerationResult {
  FinishReason reason = FinishReason::kLength;
  GenerationStats stats;
  std::optional<Error> error;  // with kFault
};

// Called by the thread that steps the engine; must not call the engine and must not block.
struct Listener {
  // Once, when the request is first admitted: prompt_tokens, cached_tokens and queue_seconds are
  // known. May be empty.
  std::function<void(const GenerationStats&)> on_start;
  // False: stop here. Not called after on_finish.
  std::function<bool(const Sampled&)> on_token;
  // Exactly once for every request that submit() accepted.
  std::function<void(const GenerationResult&)> on_finish;
};

}  // namespace longshore::engine
