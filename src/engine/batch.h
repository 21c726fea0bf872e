// A StepPlan as the arrays that the model reads.
//
// Ownership: the batch owns the arrays and reuses them; views are valid until the next build().
// Threading: one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/scheduler.h"
#include "kernels/paged.h"
#include "model/model.h"

namespace longshore::engine {

class Batch {
 public:
  void build(const StepPlan& plan);

  // ids, batch and logit_rows; row i of the logits belongs to the i-th item that samples.
  [[nodiscard]] model::StepInput input() const;

 private:
  std::vector<int32_t> ids_;          // [T]
  std::vector<int32_t> positions_;    // [T]
  std::vector<int32_t> sequence_of_;  // [T]
  std::vector<int32_t> page_table_;   // [B, width_]; past a sequence's pages: 0, never read
  std::vector<int32_t> logit_rows_;
  int64_t sequences_ = 0;
  int64_t width_ = 0;
};

}  // namespace longshore::engine
