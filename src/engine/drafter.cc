#include "engine/drafter.h"

#include <algorithm>

namespace longshore::engine {

void Drafter::begin() {
  ids_.clear();
  positions_.clear();
  sequence_of_.clear();
  hidden_rows_.clear();
  sequences_.clear();
  logit_rows_.clear();
}

void Drafter::add_sequence(const Sequence& sequence) {
  sequences_.push_back(&sequence);
}

// Of the sequence that was added last.
void Drafter::add_row(int64_t position, int32_t next, int64_t hidden_row) {
  ids_.push_back(next);
  positions_.push_back(static_cast<int32_t>(position));
  sequence_of_.push_back(static_cast<int32_t>(sequences_.size()) - 1);
  hidden_rows_.push_back(static_cast<int32_t>(hidden_row));
}

Result<void> Drafter::step(ConstMatrixView hidden, std::span<const model::LayerCache> caches) {
  size_t width = 0;
  for (const Sequence* sequence : sequences_) width = std::max(width, sequence->pages.pages.size());
  page_table_.assign(sequences_.size() * width, 0);
  for (size_t b = 0; b < sequences_.size(); ++b) {
    std::copy(sequences_[b]->pages.pages.begin(), sequences_[b]->pages.pages.end(),
              page_table_.begin() + static_cast<std::ptrdiff_t>(b * width));
  }
  model::StepInput input;
  input.ids = ids_.data();
  input.batch = {.tokens = static_cast<int64_t>(ids_.size()),
                 .sequences = static_cast<int64_t>(sequences_.size()),
                 .positions = positions_.data(),
                 .sequence_of = sequence_of_.data(),
                 .page_table = page_table_.data(),
                 .page_table_width = static_cast<int64_t>(width)};
  input.logit_rows = logit_rows_;
  input.hidden_rows = hidden_rows_;
  input.caches = caches;
  const auto rows = static_cast<int64_t>(logit_rows_.size());
  logits_.resize(static_cast<size_t>(rows * vocab_));
  model::StepOutput output;
  output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, rows, vocab_, vocab_};
  return mtp_->forward(input, hidden, output);
}

// The likeliest id of every guesser, who goes on if it wants more.
void Drafter::take_guesses() {
  size_t kept = 0;
  for (size_t i = 0; i < guessers_.size(); ++i) {
    const std::span<const float> logits(logits_.data() + i * static_cast<size_t>(vocab_),
                                        static_cast<size_t>(vocab_));
    if (!all_finite(logits)) continue;
    const Guesser guesser = guessers_[i];
    Sequence& sequence = *guesser.item->sequence;
    const auto best =
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    sequence.drafts.push_back(best);
    if (static_cast<int64_t>(sequence.drafts.size()) >= guesser.item->most) continue;
    guessers_[kept++] = {guesser.item, logit_rows_[i]};
  }
  guessers_.resize(kept);
}

Result<void> Drafter::run(std::span<const Item> items, ConstMatrixView hidden,
                          std::span<const model::LayerCache> caches) {
  begin();
  guessers_.clear();
  for (const Item& item : items) {
    item.sequence->drafts.clear();
    if (item.next.empty()) continue;
    add_sequence(*item.sequence);
    for (size_t i = 0; i < item.next.size(); ++i) {
      const auto offset = static_cast<int64_t>(i);
      add_row(item.start + offset, item.next[i], item.row + offset);
    }
    if (item.most <= 0) continue;
    logit_rows_.push_back(static_cast<int32_t>(ids_.size()) - 1);
    guessers_.push_back({&item, 0});
  }
  if (ids_.empty()) return {};
  LS_TRY_VOID(step(hidden, caches));
  take_guesses();
  while (!guessers_.empty()) {
    begin();
    for (size_t i = 0; i < guessers_.size(); ++i) {
      const Item& item = *guessers_[i].item;
      const std::vector<int32_t>& drafts = item.sequence->drafts;
      const auto guessed = static_cast<int64_t>(drafts.size());
      add_sequence(*item.sequence);
      add_row(item.start + static_cast<int64_t>(item.next.size()) - 1 + guessed, drafts.back(),
              guessers_[i].row);
      logit_rows_.push_back(static_cast<int32_t>(i));
    }
    LS_TRY_VOID(step(mtp_->hidden(), caches));
    take_guesses();
  }
  return {};
}

}  // namespace longshore::engine
