// The draw of one id on the host: what DrawParams says, for one row.
//
// Threading: one thread per RowDraw, which keeps its scratch memory between draws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/ops_sample.h"

namespace longshore::kernels {

using Candidate = std::pair<float, int32_t>;  // logit and id

// Higher logit first, lower id first among equals. A strict weak order for every input: NaN comes
// after all numbers.
[[nodiscard]] bool before(const Candidate& a, const Candidate& b);

// The first of the highest, NaN never; 0 where nothing is above -infinity.
[[nodiscard]] int32_t place_of_highest(std::span<const float> logits);

// No NaN and no infinity.
[[nodiscard]] bool all_finite(std::span<const float> logits);

class RowDraw {
 public:
  // Logits of -infinity are never drawn while another is there. What is highest is not finite: its
  // place.
  int32_t operator()(std::span<const float> logits, const DrawRule& rule);

 private:
  void sort_up_to(size_t count);

  std::vector<Candidate> candidates_;
  size_t sorted_ = 0;  // the first candidates_ that are in order
};

}  // namespace longshore::kernels
