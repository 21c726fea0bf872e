#include "engine/speculation.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {

// One more row and a sequence alone would not fit the captured steps.
const int64_t Drafter::kWindow = 64;

namespace {

std::span<const int32_t> draft_pages(const Sequence& sequence) {
  return std::span(sequence.pages.pages).subspan(static_cast<size_t>(sequence.draft.first_page));
}

}  // namespace

model::StepInput Drafter::input() {
  batch_.finish();
  model::StepInput input = batch_.input();
  input.caches = caches_;
  input.cancel = cancel_;
  input.hidden_rows = rows_.data();
  LS_CHECK(static_cast<int64_t>(rows_.size()) == input.batch.tokens);
  return input;
}

Result<void> Drafter::run(std::span<Turn* const> turns, ConstMatrixView hidden) {
  const model::StepInput step = input();
  const int64_t vocab = target_->config().vocab_size;
  const auto wanted = static_cast<int64_t>(step.logit_rows.size());
  LS_CHECK(wanted == static_cast<int64_t>(turns.size()));
  logits_.resize(static_cast<size_t>(wanted * vocab));
  model::StepOutput output;
  output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, wanted, vocab, vocab};
  LS_TRY_VOID(options_.mtp->forward(step, hidden, output));
  threads_->parallel_for(wanted, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      propose(
          *turns[static_cast<size_t>(i)],
          std::span(logits_).subspan(static_cast<size_t>(i * vocab), static_cast<size_t>(vocab)));
    }
  });
  return {};
}

void Drafter::propose(Turn& turn, std::span<float> logits) {
  Sequence& sequence = *turn.sequence;
  DraftState& draft = sequence.draft;
  const auto ahead = static_cast<int64_t>(draft.ids.size());
  std::span<const uint64_t> allowed;
  if (sequence.constraint) {
    // The mask that the target's row will need as well.
    std::vector<uint64_t>& mask = sequence.mask(ahead);
    if (ahead > 0 || !sequence.allowed_known) sequence.constraint->fill(mask);
    if (ahead == 0) sequence.allowed_known = true;
    if (std::all_of(mask.begin(), mask.end(), [](uint64_t word) { return word == 0; })) {
      turn.most = ahead;
      return;
    }
    allowed = mask;
    draft.masks = ahead + 1;
  }
  int32_t id = sequence.sampler.propose(logits, sequence.banned(ahead), allowed,
                                        static_cast<uint64_t>(ahead));
  if (options_.wrong_drafts && !sequence.constraint)
    id = static_cast<int32_t>((id + 1) % target_->config().vocab_size);
  if (sequence.constraint && !sequence.constraint->draft(id)) {
    turn.most = ahead;
    return;
  }
  draft.ids.push_back(id);
  // Nothing follows an end.
  if (sequence.stops_at(id)) turn.most = ahead + 1;
}

void Drafter::read(std::span<Turn> turns) {
  batch_.clear();
  rows_.clear();
  for (Turn& turn : turns) {
    const Sequence& sequence = *turn.sequence;
    DraftState& draft = turn.sequence->draft;
    const int64_t count = sequence.unread(kWindow);
    const int64_t from = sequence.computed - count;
    draft.run = sequence.run_after(kWindow);
    if (draft.read == 0) draft.first_page = from / kernels::kPageTokens;
    const int32_t number = batch_.add_sequence(draft_pages(sequence));
    for (int64_t i = 0; i < count; ++i) {
      rows_.push_back(static_cast<int32_t>(draft.row + draft.rows - count + i));
      batch_.add_token(number, sequence.ids[static_cast<size_t>(from + i + 1)], draft.read + i);
    }
    batch_.want_logits();
    turn.row = static_cast<int32_t>(rows_.size()) - 1;
    draft.read += count;
    draft.until = sequence.computed;
  }
}

void Drafter::go_deeper(std::span<Turn* const> turns, int64_t depth) {
  batch_.clear();
  rows_.clear();
  for (Turn* turn : turns) {
    const Sequence& sequence = *turn->sequence;
    const auto& guesses = sequence.draft.ids;
    rows_.push_back(turn->row);
    turn->row = static_cast<int32_t>(rows_.size()) - 1;
    const int32_t number = batch_.add_sequence(draft_pages(sequence));
    batch_.add_token(number, guesses.empty() ? 0 : guesses.back(), sequence.draft.read + depth - 1);
    batch_.want_logits();
  }
}

Result<void> Drafter::guess(std::span<Turn> turns) {
  std::vector<Turn*> going;
  for (Turn& turn : turns) going.push_back(&turn);
  read(turns);
  LS_TRY_VOID(run(going, target_->hidden()));
  for (int64_t depth = 1;; ++depth) {
    passes_ = std::max(passes_, depth);
    std::erase_if(going, [depth](const Turn* turn) {
      return turn->most <= depth || static_cast<int64_t>(turn->sequence->draft.ids.size()) < depth;
    });
    if (going.empty()) return {};
    go_deeper(going, depth);
    LS_TRY_VOID(run(going, options_.mtp->hidden()));
  }
}

// All passes are queued before one is waited for: the id that a guess came to stays on the device,
// which reads it for the next. Who goes deepest comes first, so that deeper passes have the same
// rows.
Result<void> Drafter::guess_on_device(std::span<Turn> turns) {
  std::stable_sort(turns.begin(), turns.end(),
                   [](const Turn& a, const Turn& b) { return a.most > b.most; });
  std::vector<Turn*> going;
  for (Turn& turn : turns) going.push_back(&turn);
  std::vector<Turn*> guessed;  // [ids]
  read(turns);
  for (int64_t depth = 0; !going.empty(); passes_ = ++depth) {
    if (depth > 0) go_deeper(going, depth);
    rules_.clear();
    for (const Turn* turn : going)
      rules_.push_back(turn->sequence->sampler.rule(static_cast<uint64_t>(depth)));
    const ConstMatrixView hidden = depth == 0 ? target_->hidden() : options_.mtp->hidden();
    if (Result<void> queued = options_.mtp->draw(input(), hidden, rules_); !queued) {
      LS_TRY_VOID(options_.mtp->take_drawn({}));
      return queued;
    }
    guessed.insert(guessed.end(), going.begin(), going.end());
    while (!going.empty() && going.back()->most <= depth + 1) going.pop_back();
  }
  drawn_.resize(guessed.size());
  LS_TRY_VOID(options_.mtp->take_drawn(drawn_));
  for (size_t i = 0; i < guessed.size(); ++i) {
    Sequence& sequence = *guessed[i]->sequence;
    std::vector<int32_t>& ids = sequence.draft.ids;
    // Nothing follows an end, nor logits that are not finite.
    if (drawn_[i] < 0) guessed[i]->most = 0;
    if (static_cast<int64_t>(ids.size()) >= guessed[i]->most) continue;
    const auto wrong = static_cast<int32_t>(options_.wrong_drafts ? 1 : 0);
    ids.push_back(static_cast<int32_t>((drawn_[i] + wrong) % target_->config().vocab_size));
    if (sequence.stops_at(ids.back())) guessed[i]->most = 0;
  }
  return {};
}

Result<int64_t> Drafter::draft(std::span<Sequence* const> sequences, int64_t steps,
                               std::span<const model::LayerCache> caches,
                               const CancelToken* cancel) {
  caches_ = caches;
  cancel_ = cancel;
  passes_ = 0;
  std::vector<Turn> turns;
  for (Sequence* sequence : sequences) {
    // Guesses of a step that was interrupted are still good.
    if (!sequence->draft.ids.empty() || sequence->unread(kWindow) == 0) continue;
    const int64_t left = sequence->output_limit - sequence->stats.output_tokens - 1;
    const auto room = static_cast<int64_t>(sequence->pages.pages.size()) * kernels::kPageTokens -
                      sequence->computed - 1;
    const int64_t most = std::min({steps, left, room});
    if (most > 0) turns.push_back({sequence, most, sequence->draft});
  }
  const bool draws = options_.mtp->draws();
  const auto hosted = std::stable_partition(turns.begin(), turns.end(), [draws](const Turn& turn) {
    return draws && turn.sequence->draws_only(0);
  });
  const auto split = static_cast<size_t>(hosted - turns.begin());
  Result<void> done;
  if (split > 0) done = guess_on_device(std::span(turns).first(split));
  if (done && split < turns.size()) done = guess(std::span(turns).subspan(split));
  if (done) return passes_;
  for (Turn& turn : turns) {
    turn.sequence->drop_drafts();
    // What should have been read may not be written, and is read again: the hidden states stay.
    turn.sequence->draft = turn.before;
  }
  return tl::unexpected<Error>(done.error());
}

}  // namespace longshore::engine
