#include "engine/speculation.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {

Result<std::unique_ptr<Drafter>> Drafter::create(const Speculation& options, model::Model& target,
                                                 ThreadPool& threads) {
  LS_CHECK(options.on());
  std::unique_ptr<Drafter> drafter(new Drafter(options, target, threads));
  LS_TRY(drafter->kept_, HiddenRows::create(options.mtp->backend(), target.config().hidden_size,
                                            target.limits().tokens, options.ring_bytes));
  return drafter;
}

Result<int64_t> Drafter::keep(std::span<Sequence* const> all) {
  const ConstMatrixView hidden = target_->hidden();
  const int64_t lowest = kept_->lowest_after(hidden.rows);
  int64_t bytes = 0;
  for (const Sequence* sequence : all)
    bytes += static_cast<int64_t>(sequence->draft.hidden.size()) * 4;
  for (Sequence* sequence : all) {
    DraftState& draft = sequence->draft;
    if (draft.rows.empty() || draft.rows.front() >= lowest) continue;
    const auto count = static_cast<int64_t>(draft.rows.size());
    bytes += count * hidden.cols * 4;
    if (bytes > kKeptBytes) {
      bytes -= count * hidden.cols * 4 + static_cast<int64_t>(draft.hidden.size()) * 4;
      draft.hidden = {};
      draft.rows = {};
      draft.lost = true;
      continue;
    }
    for (size_t begin = 0; begin < draft.rows.size();) {
      size_t end = begin + 1;
      while (end < draft.rows.size() && draft.rows[end] == draft.rows[end - 1] + 1) ++end;
      LS_TRY_VOID(kept_->copy_to(draft.rows[begin], draft.rows[end - 1] + 1, draft.hidden));
      begin = end;
    }
    draft.rows.clear();
  }
  return kept_->append(hidden);
}

void Drafter::add_hidden(const DraftState& draft, int64_t i) {
  const int64_t width = target_->config().hidden_size;
  const int64_t on_host = static_cast<int64_t>(draft.hidden.size()) / width;
  rows_.push_back(i < on_host ? kept_->stage(static_cast<int64_t>(rows_.size()),
                                             draft.hidden.data() + i * width)
                              : kept_->row(draft.rows[static_cast<size_t>(i - on_host)]));
}

void Drafter::drop_read(DraftState& draft, int64_t count, int64_t width) {
  const int64_t on_host = std::min(count, static_cast<int64_t>(draft.hidden.size()) / width);
  draft.hidden.erase(draft.hidden.begin(), draft.hidden.begin() + on_host * width);
  draft.rows.erase(draft.rows.begin(), draft.rows.begin() + (count - on_host));
  draft.written += count;
}

Result<void> Drafter::run(std::span<Turn* const> last, ConstMatrixView hidden) {
  model::StepInput input = batch_.input();
  input.caches = caches_;
  input.cancel = cancel_;
  input.hidden_rows = rows_.data();
  LS_CHECK(static_cast<int64_t>(rows_.size()) == input.batch.tokens);
  const int64_t vocab = target_->config().vocab_size;
  const auto wanted = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(wanted == static_cast<int64_t>(last.size()));
  logits_.resize(static_cast<size_t>(wanted * vocab));
  model::StepOutput output;
  if (wanted > 0)
    output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, wanted, vocab,
                     vocab};
  LS_TRY_VOID(options_.mtp->forward(input, hidden, output));
  threads_->parallel_for(wanted, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      Turn& turn = *last[static_cast<size_t>(i)];
      turn.row = input.logit_rows[static_cast<size_t>(i)];
      propose(turn, std::span(logits_).subspan(static_cast<size_t>(i * vocab),
                                               static_cast<size_t>(vocab)));
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

Result<void> Drafter::catch_up(std::span<Turn> turns) {
  const int64_t width = target_->config().hidden_size;
  size_t next = 0;
  while (next < turns.size()) {
    int64_t room = target_->limits().tokens;
    batch_.clear();
    rows_.clear();
    // Hidden states of an earlier pass are written over: its guesses go no deeper in this step.
    for (size_t done = 0; done < next; ++done)
      turns[done].most = std::min<int64_t>(1, turns[done].most);
    std::vector<Turn*> last;
    std::vector<std::pair<Sequence*, int64_t>> taken;
    for (; next < turns.size() && room > 0; ++next) {
      Sequence& sequence = *turns[next].sequence;
      DraftState& draft = sequence.draft;
      const int64_t backlog = sequence.computed - draft.written;
      LS_CHECK(static_cast<int64_t>(draft.hidden.size()) ==
               (backlog - static_cast<int64_t>(draft.rows.size())) * width);
      const int64_t count = std::min(backlog, room);
      const int32_t number = batch_.add_sequence(sequence.pages.pages);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t position = draft.written + i;
        add_hidden(draft, i);
        batch_.add_token(number, sequence.ids[static_cast<size_t>(position + 1)], position);
      }
      room -= count;
      taken.emplace_back(&sequence, count);
      if (count < backlog) break;
      batch_.want_logits();
      last.push_back(&turns[next]);
    }
    batch_.finish();
    LS_TRY_VOID(run(last, kept_->all()));
    for (const auto& [sequence, count] : taken) drop_read(sequence->draft, count, width);
  }
  return {};
}

// The draft reads its own guess with its own hidden state; what it writes into its cache is
// written again when the target's is known.
Result<void> Drafter::deeper(std::span<Turn* const> turns) {
  batch_.clear();
  rows_.clear();
  for (Turn* turn : turns) {
    const Sequence& sequence = *turn->sequence;
    const auto guesses = static_cast<int64_t>(sequence.draft.ids.size());
    rows_.push_back(turn->row);
    const int32_t number = batch_.add_sequence(sequence.pages.pages);
    batch_.add_token(number, sequence.draft.ids.back(), sequence.computed + guesses - 1);
    batch_.want_logits();
  }
  batch_.finish();
  return run(turns, options_.mtp->hidden());
}

Result<void> Drafter::draft(std::span<Sequence* const> sequences, int64_t steps,
                            std::span<const model::LayerCache> caches, const CancelToken* cancel) {
  caches_ = caches;
  cancel_ = cancel;
  std::vector<Turn> turns;
  for (Sequence* sequence : sequences) {
    // Guesses of a step that was interrupted are still good.
    if (!sequence->draft.ids.empty() || sequence->draft.written == sequence->computed) continue;
    const int64_t left = sequence->output_limit - sequence->stats.output_tokens - 1;
    const auto room = static_cast<int64_t>(sequence->pages.pages.size()) * kernels::kPageTokens -
                      sequence->computed - 1;
    const int64_t most = std::min({steps, left, room});
    if (most > 0) turns.push_back({sequence, most});
  }
  Result<void> done = catch_up(turns);
  for (int64_t depth = 1; done && depth < steps; ++depth) {
    std::vector<Turn*> going;
    for (Turn& turn : turns) {
      if (static_cast<int64_t>(turn.sequence->draft.ids.size()) == depth && turn.most > depth)
        going.push_back(&turn);
    }
    if (going.empty()) break;
    done = deeper(going);
  }
  if (done) return {};
  for (Turn& turn : turns) turn.sequence->drop_drafts();
  return done;
}

}  // namespace longshore::engine
