// One request inside the engine: its tokens, its pages, how far it has got.
//
// Ownership: the engine owns sequences; scheduler and plans point to them. Threading: one thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/request.h"

namespace longshore::engine {

// What the draft knows of a sequence and guesses next. It has read some of the sequence's
// positions, the ones before its first look and those of steps without guesses left out, and counts
// them from 0: its place p is slot p % 64 of the page p / 64 after first_page.
struct DraftState {
  int64_t first_page = 0;  // of the sequence's pages
  int64_t read = 0;        // places that are written
  int64_t until = 0;       // of the positions below, none is still to be read
  // Of these, so many of the last were read, without a gap of more than one, which a step without
  // guesses leaves.
  int64_t run = 0;
  // The target's last pass left the hidden states of the last `rows` positions below
  // Sequence::computed, from its row `row` on. 0: it was of others, or cut short.
  int64_t row = 0;
  int64_t rows = 0;
  std::vector<int32_t> ids;  // guesses of what follows Sequence::ids
  int64_t masks = 0;         // places whose mask is known: of the next token and after guesses
};

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
  std::vector<std::vector<uint64_t>> allowed_after;  // ... and after 1, 2, ... guesses
  std::vector<int32_t> ids;                          // prompt, then output
  int64_t computed = 0;      // of ids, the first ones: their caches are written
  int64_t output_limit = 0;  // output tokens, at least 1
  PageList pages;
  DraftState draft;
  bool cancelled = false;
  // While waiting: another sequence that computes its next page, and how far that one must come.
  RequestId follows = 0;
  int64_t follows_until = 0;
  // Since it was last admitted it has given a token: one more goes through the model in every step.
  bool decoding = false;
  // A pass that pauses computes some of its tokens: it keeps its pages until that ends.
  bool in_pass = false;
  bool started = false;  // has been admitted once
  GenerationStats stats;
  Clock::time_point submitted;
  Clock::time_point admitted;
  Clock::time_point first_token;

  // Tokens that must go through the model before the next one can be sampled. 1 while decoding.
  [[nodiscard]] int64_t pending() const { return static_cast<int64_t>(ids.size()) - computed; }
  // The mask of the place after `guesses` guesses; there is a constraint.
  [[nodiscard]] std::vector<uint64_t>& mask(int64_t guesses) {
    if (guesses == 0) return allowed;
    const auto places = static_cast<size_t>(guesses);
    if (allowed_after.size() < places) allowed_after.resize(places);
    allowed_after[places - 1].resize(allowed.size());
    return allowed_after[places - 1];
  }
  void drop_drafts() {
    if (constraint && !draft.ids.empty()) constraint->drop_drafts();
    draft.ids.clear();
    draft.masks = 0;
  }
  [[nodiscard]] bool stops_at(int32_t token) const {
    return !request.ignore_stop_ids && std::find(request.stop_ids.begin(), request.stop_ids.end(),
                                                 token) != request.stop_ids.end();
  }
  // The ids that the token after `guesses` guesses must not be: stops before min_tokens, unless
  // the constraint allows nothing else.
  [[nodiscard]] std::span<const int32_t> banned(int64_t guesses) {
    if (request.ignore_stop_ids || stats.output_tokens + guesses >= request.min_tokens) return {};
    if (!constraint) return request.stop_ids;
    std::vector<uint64_t> left = mask(guesses);
    for (const int32_t token : request.stop_ids)
      left[static_cast<size_t>(token) / 64] &=
          ~(uint64_t{1} << (static_cast<uint32_t>(token) % 64));
    const bool others =
        std::any_of(left.begin(), left.end(), [](uint64_t word) { return word != 0; });
    return others ? std::span<const int32_t>(request.stop_ids) : std::span<const int32_t>();
  }
  // The token after `guesses` guesses is drawn from the model's logits as they are.
  [[nodiscard]] bool draws_only(int64_t guesses) {
    return !constraint && sampler.draws_only() && banned(guesses).empty();
  }
  // Positions that the draft would read before its next guess, of at most `most` at once.
  [[nodiscard]] int64_t unread(int64_t most) const {
    return std::min(most, computed - std::max(draft.until, computed - draft.rows));
  }
  // DraftState::run after that.
  [[nodiscard]] int64_t run_after(int64_t most) const {
    const int64_t count = unread(most);
    const int64_t gap = computed - count - draft.until;
    return count + (gap <= 1 ? draft.run : 0);
  }
  [[nodiscard]] std::span<const int32_t> written() const {
    return std::span(ids).first(static_cast<size_t>(computed));
  }
};

}  // namespace longshore::engine
