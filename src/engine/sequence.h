// One request inside the engine: its tokens, its pages, how far it has got.
//
// Ownership: the engine owns sequences; scheduler and plans point to them. Threading: one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/request.h"

namespace longshore::engine {

struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(RequestId number, GenerationRequest asked, Listener heard)
      : id(number),
        request(std::move(asked)),
        listener(std::move(heard)),
        sampler(request.sampling, request.prompt),
        ids(request.prompt),
        submitted(Clock::now()) {
    stats.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  }

  // Begins the constraint, if the request has one.
  void constrain(int64_t vocab) {
    if (!request.constraint) return;
    constraint = request.constraint->start(request.stop_ids, vocab);
    allowed.resize(id_mask_words(vocab));
  }

  RequestId id;  // ascends with the time of arrival: lower is older
  GenerationRequest request;
  Listener listener;
  Sampler sampler;
  std::unique_ptr<TokenConstraint> constraint;  // null: none
  std::vector<uint64_t> allowed;                // its mask for the next token, where that is known
  bool allowed_known = false;
  std::vector<int32_t> ids;  // prompt, then output
  int64_t computed = 0;      // of ids, the first ones: their caches are written
  int64_t output_limit = 0;  // output tokens, at least 1
  PageList pages;
  bool cancelled = false;
  // While waiting: another sequence that computes its next page, and how far that one must come.
  RequestId follows = 0;
  int64_t follows_until = 0;
  // Since it was last admitted it has given a token: one more goes through the model in every step.
  bool decoding = false;
  bool started = false;  // has been admitted once
  GenerationStats stats;
  Clock::time_point submitted;
  Clock::time_point admitted;
  Clock::time_point first_token;

  // Tokens that must go through the model before the next one can be sampled. 1 while decoding.
  [[nodiscard]] int64_t pending() const { return static_cast<int64_t>(ids.size()) - computed; }
  [[nodiscard]] std::span<const int32_t> written() const {
    return std::span(ids).first(static_cast<size_t>(computed));
  }
};

}  // namespace longshore::engine
