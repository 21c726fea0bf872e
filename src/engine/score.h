// Logits and hidden states of a given sequence, by the same chunked forward pass that serves: for
// comparing precisions and engines, and for the tests against golden outputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "model/model.h"

namespace longshore::engine {

struct ScoreRequest {
  std::span<const int32_t> ids;             // [S] in [0, vocab), at least one
  int64_t last = -1;                        // rows of the result: the last P positions; -1: all
  int64_t chunk = 512;                      // tokens of one step, at most the model's limit
  model::Mtp* mtp = nullptr;                // run it too: needs a layout with MTP
  model::Observer* observer = nullptr;      // of the main model
  model::Observer* mtp_observer = nullptr;  // of mtp
};

// P rows each. mtp_*: row i has seen the id after its position; after the last position that is the
// greedy choice.
struct Scores {
  int64_t rows = 0;
  std::vector<float> logits;      // [P, vocab]
  std::vector<float> hidden;      // [P, hidden], after the final norm
  std::vector<float> mtp_logits;  // [P, vocab] or empty
  std::vector<float> mtp_hidden;  // [P, hidden] or empty
};

// Errors: kUsage (ids, last), kMemory, kCancelled, kModel (logits that are not finite), kDevice.
Result<Scores> score(model::Model& model, const model::KvLayout& layout,
                     const ScoreRequest& request, const CancelToken& cancel);

}  // namespace longshore::engine
