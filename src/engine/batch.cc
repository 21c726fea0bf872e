#include "engine/batch.h"

#include <algorithm>

namespace longshore::engine {

void Batch::clear() {
  ids_.clear();
  positions_.clear();
  sequence_of_.clear();
  logit_rows_.clear();
  pages_.clear();
}

int32_t Batch::add_sequence(std::span<const int32_t> pages) {
  pages_.push_back(pages);
  return static_cast<int32_t>(pages_.size()) - 1;
}

void Batch::add_token(int32_t sequence, int32_t id, int64_t position) {
  ids_.push_back(id);
  positions_.push_back(static_cast<int32_t>(position));
  sequence_of_.push_back(sequence);
}

void Batch::want_logits() {
  logit_rows_.push_back(static_cast<int32_t>(ids_.size()) - 1);
}

void Batch::finish() {
  sequences_ = static_cast<int64_t>(pages_.size());
  width_ = 0;
  for (const auto& pages : pages_) width_ = std::max(width_, static_cast<int64_t>(pages.size()));
  page_table_.assign(static_cast<size_t>(sequences_ * width_), 0);
  for (size_t b = 0; b < pages_.size(); ++b) {
    std::copy(pages_[b].begin(), pages_[b].end(),
              page_table_.begin() + static_cast<std::ptrdiff_t>(b) * width_);
  }
  pages_.clear();
}

void Batch::build(const StepPlan& plan) {
  clear();
  for (const StepPlan::Item& item : plan.items) {
    const Sequence& sequence = *item.sequence;
    const int32_t number = add_sequence(sequence.pages.pages);
    const int64_t given = item.tokens - item.drafts;
    for (int64_t i = 0; i < item.tokens; ++i) {
      const int64_t position = sequence.computed + i;
      add_token(number,
                i < given ? sequence.ids[static_cast<size_t>(position)]
                          : sequence.draft.ids[static_cast<size_t>(i - given)],
                position);
      if (item.samples && i + 1 >= given) want_logits();
    }
  }
  finish();
}

model::StepInput Batch::input() const {
  model::StepInput input;
  input.ids = ids_.data();
  input.batch = {.tokens = static_cast<int64_t>(ids_.size()),
                 .sequences = sequences_,
                 .positions = positions_.data(),
                 .sequence_of = sequence_of_.data(),
                 .page_table = page_table_.data(),
                 .page_table_width = width_};
  input.logit_rows = logit_rows_;
  return input;
}

}  // namespace longshore::engine
