// A StepPlan as the arrays that the model reads.
//
// Ownership: the batch owns the arrays and reuses them; views are valid until the next build().
// Threading: one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/scheduler.h"
#include "kernels/paged.h"
#include "model/model.h"

namespace longshore::engine {

class Batch {
 public:
  void build(const StepPlan& plan);
  // By hand: clear(), sequences with their tokens, finish(). add_sequence() returns its number.
  void clear();
  // pages: until finish().
  int32_t add_sequence(std::span<const int32_t> pages);
  void add_token(int32_t sequence, int32_t id, int64_t position);
  void want_logits();  // of the last token
  void finish();
  [[nodiscard]] int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }

  // ids, batch and logit_rows. Of a plan: the items that sample have their rows of logits one after
  // the other, 1 + drafts each.
  [[nodiscard]] model::StepInput input() const;

 private:
  std::vector<int32_t> ids_;          // [T]
  std::vector<int32_t> positions_;    // [T]
  std::vector<int32_t> sequence_of_;  // [T]
  std::vector<int32_t> page_table_;   // [B, width_]; past a sequence's pages: 0, never read
  std::vector<int32_t> logit_rows_;
  std::vector<std::span<const int32_t>> pages_;  // [B], until finish()
  int64_t sequences_ = 0;
  int64_t width_ = 0;
};

}  // namespace longshore::engine
