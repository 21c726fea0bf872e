// From logits to ids. A params struct per operation.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace longshore::kernels {

// How one row's id is drawn. Plain data that a device reads too.
struct DrawRule {
  float temperature = 0;  // 0: the highest
  int32_t top_k = 0;      // 0 or less: off
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1)
  double uniform = 0;     // [0, 1): the random number
};

// ids[t] = the id drawn from row t by rules[t], -1 where a logit of the row is NaN or infinite.
//
// Ids are in order of their logits, the lower id first of equals. The mass of one is exp((logit -
// highest) / temperature). Kept are the first top_k; of these the smallest first part whose mass
// reaches top_p of theirs; of these the ones with at least min_p. The id is the first at which the
// running sum of the kept masses is above uniform times their sum.
struct DrawParams {
  ConstMatrixView logits;           // [rows, n] fp32, n from 1
  const DrawRule* rules = nullptr;  // [rows]; not read where greedy
  bool greedy = false;              // all rows take their highest logit
  int32_t* ids = nullptr;           // [rows]
};

}  // namespace longshore::kernels
