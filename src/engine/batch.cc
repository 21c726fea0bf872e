#include "engine/batch.h"

#include <algorithm>

namespace longshore::engine {

void Batch::build(const StepPlan& plan) {
  ids_.clear();
  positions_.clear();
  sequence_of_.clear();
  logit_rows_.clear();
  sequences_ = static_cast<int64_t>(plan.items.size());
  width_ = 0;
  for (const StepPlan::Item& item : plan.items) {
    width_ = std::max(width_, static_cast<int64_t>(item.sequence->pages.pages.size()));
  }
  page_table_.assign(static_cast<size_t>(sequences_ * width_), 0);
  for (size_t b = 0; b < plan.items.size(); ++b) {
    const StepPlan::Item& item = plan.items[b];
    const Sequence& sequence = *item.sequence;
    for (int64_t i = 0; i < item.tokens; ++i) {
      const int64_t position = sequence.computed + i;
      ids_.push_back(sequence.ids[static_cast<size_t>(position)]);
      positions_.push_back(static_cast<int32_t>(position));
      sequence_of_.push_back(static_cast<int32_t>(b));
    }
    std::copy(sequence.pages.pages.begin(), sequence.pages.pages.end(),
              page_table_.begin() + static_cast<std::ptrdiff_t>(b) * width_);
    if (item.samples) logit_rows_.push_back(static_cast<int32_t>(ids_.size()) - 1);
  }
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
