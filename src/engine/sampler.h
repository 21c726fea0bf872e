// From logits to the next token.
//
// Order: what a constraint does not allow goes, logit bias, repetition, presence and frequency
// penalties, logprobs of the result (before temperature, as OpenAI reports them), temperature,
// top-k, top-p, min-p, draw. Greedy (temperature 0): the highest, lower id wins ties. Penalties:
// repetition (CTRL, arXiv 1909.05858) over prompt and output; presence and frequency (OpenAI) over
// output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/draw.h"

namespace longshore::engine {

struct SamplingParams {
  float temperature = 1;         // 0: greedy
  int32_t top_k = -1;            // -1 or 0: off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1)
  float repetition_penalty = 1;  // > 0
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  int32_t top_logprobs = -1;  // -1: no logprobs; n: the token's own and the n highest

  // kUsage naming the field and its range.
  [[nodiscard]] Result<void> validate(int64_t vocab_size) const;
};

struct Sampled {
  int32_t id = 0;
  float logprob = 0;                                    // where asked for
  std::vector<std::pair<int32_t, float>> top_logprobs;  // descending
};

// One sequence's sampler. Deterministic in (seed, number of draws so far). Threading: one thread.
class Sampler {
 public:
  // prompt: for the repetition penalty.
  Sampler(SamplingParams params, std::span<const int32_t> prompt);

  // logits [vocab] fp32, overwritten. NaN is never chosen while a number is there; whether the
  // model gave any is the caller's to ask (all_finite). banned: ids that must not be chosen (stop
  // tokens before min_tokens). allowed: unless empty, the ids that may be chosen, one of them at
  // least; logprobs are then of the distribution over these, and no other id is among them.
  Sampled sample(std::span<float> logits, std::span<const int32_t> banned = {},
                 std::span<const uint64_t> allowed = {});
  // What sample() would draw from these logits `ahead` draws from now; changes nothing but them.
  // For guesses: output that comes until then does not count.
  int32_t propose(std::span<float> logits, std::span<const int32_t> banned,
                  std::span<const uint64_t> allowed, uint64_t ahead);
  // sample() without banned ids and a mask is rule(0)'s draw from the logits as they are: somebody
  // else may make it, who then says count_draw().
  [[nodiscard]] bool draws_only() const;
  // `ahead` draws from now.
  [[nodiscard]] kernels::DrawRule rule(uint64_t ahead) const;
  void count_draw();
  // Counts a token as generated: the one just drawn, or one that was forced.
  void accept(int32_t id);

 private:
  void penalise(std::span<float> logits) const;
  int32_t draw(std::span<const float> logits);
  [[nodiscard]] double uniform(uint64_t draw) const;

  SamplingParams params_;
  uint64_t draws_ = 0;
  std::unordered_map<int32_t, int32_t> output_counts_;
  std::vector<int32_t> prompt_ids_;  // distinct
  kernels::RowDraw draw_row_;
};

// What a sampler needs of a model.
using kernels::all_finite;

}  // namespace longshore::engine
