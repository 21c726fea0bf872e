#include "engine/speculation.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::engine {

Result<std::unique_ptr<Drafter>> Drafter::create(const Speculation& options, model::Model& target,
                                                 ThreadPool& threads) {
  LS_CHECK(options.on());
  std::unique_ptr<Drafter> drafter(new Drafter(options, target, threads));
  LS_TRY(drafter->input_,
         device::Buffer::allocate(options.mtp->backend().memory(),
                                  target.limits().tokens * target.config().hidden_size * 4,
                                  "hidden states for the draft"));
  return drafter;
}

void Drafter::keep(Sequence& sequence, const float* hidden, int64_t count, int64_t& kept) {
  DraftState& draft = sequence.draft;
  if (draft.lost) return;
  const int64_t floats = count * target_->config().hidden_size;
  if (kept + floats * 4 > kKeptBytes) {
    kept -= static_cast<int64_t>(draft.hidden.size()) * 4;
    draft.hidden = {};
    draft.lost = true;
    return;
  }
  draft.hidden.insert(draft.hidden.end(), hidden, hidden + floats);
  kept += floats * 4;
}

// Kernel parameters, as a step's other small arrays: the copy engine belongs to the weights.
void Drafter::stage(int64_t row, const float* hidden) {
  const int64_t width = target_->config().hidden_size;
  auto* to = reinterpret_cast<int32_t*>(input_.data()) + row * width;
  backend_->copy_ints(reinterpret_cast<const int32_t*>(hidden), width, to);
}

Result<void> Drafter::run(std::span<Turn* const> last) {
  model::StepInput input = batch_.input();
  input.caches = caches_;
  input.cancel = cancel_;
  const int64_t rows = input.batch.tokens;
  const int64_t width = target_->config().hidden_size;
  const int64_t vocab = target_->config().vocab_size;
  const auto wanted = static_cast<int64_t>(input.logit_rows.size());
  LS_CHECK(wanted == static_cast<int64_t>(last.size()));
  logits_.resize(static_cast<size_t>(wanted * vocab));
  hidden_.resize(static_cast<size_t>(rows * width));
  model::StepOutput output;
  if (wanted > 0)
    output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, wanted, vocab,
                     vocab};
  output.hidden = {reinterpret_cast<std::byte*>(hidden_.data()), DType::kF32, rows, width, width};
  const MatrixView hidden{input_.data(), DType::kF32, rows, width, width};
  LS_TRY_VOID(options_.mtp->forward(input, hidden, output));
  threads_->parallel_for(wanted, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      Turn& turn = *last[static_cast<size_t>(i)];
      const int64_t row = input.logit_rows[static_cast<size_t>(i)];
      turn.hidden.assign(hidden_.begin() + row * width, hidden_.begin() + (row + 1) * width);
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
    std::vector<Turn*> last;
    std::vector<std::pair<Sequence*, int64_t>> taken;
    for (; next < turns.size() && room > 0; ++next) {
      Sequence& sequence = *turns[next].sequence;
      DraftState& draft = sequence.draft;
      const int64_t backlog = sequence.computed - draft.written;
      LS_CHECK(static_cast<int64_t>(draft.hidden.size()) == backlog * width);
      const int64_t count = std::min(backlog, room);
      const int32_t number = batch_.add_sequence(sequence.pages.pages);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t position = draft.written + i;
        stage(batch_.tokens(), draft.hidden.data() + i * width);
        batch_.add_token(number, sequence.ids[static_cast<size_t>(position + 1)], position);
      }
      room -= count;
      taken.emplace_back(&sequence, count);
      if (count < backlog) break;
      batch_.want_logits();
      last.push_back(&turns[next]);
    }
    batch_.finish();
    LS_TRY_VOID(run(last));
    for (const auto& [sequence, count] : taken) {
      std::vector<float>& kept = sequence->draft.hidden;
      kept.erase(kept.begin(), kept.begin() + count * width);
      sequence->draft.written += count;
    }
  }
  return {};
}

// The draft reads its own guess with its own hidden state; what it writes into its cache is
// written again when the target's is known.
Result<void> Drafter::deeper(std::span<Turn* const> turns) {
  batch_.clear();
  for (Turn* turn : turns) {
    const Sequence& sequence = *turn->sequence;
    const auto guesses = static_cast<int64_t>(sequence.draft.ids.size());
    stage(batch_.tokens(), turn->hidden.data());
    const int32_t number = batch_.add_sequence(sequence.pages.pages);
    batch_.add_token(number, sequence.draft.ids.back(), sequence.computed + guesses - 1);
    batch_.want_logits();
  }
  batch_.finish();
  return run(turns);
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
    if (most > 0) turns.push_back({sequence, most, {}});
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
