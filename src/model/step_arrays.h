// A step's arrays (ids, positions, page table, ...) where the backend can read them.
//
// In host memory they stay the engine's own. To a device they go packed, by Backend::copy_ints:
// kernel parameters, never the copy engine.
//
// Ownership: owns its device memory; the backend outlives it. Threading: one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "checkpoint/config.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "model/step.h"
#include "model/step_graphs.h"

namespace longshore::model {

class StepArrays {
 public:
  // kMemory.
  static Result<StepArrays> create(const GlmConfig& config, kernels::Backend& backend,
                                   const StepLimits& limits);
  // What create() takes of the backend's memory.
  [[nodiscard]] static int64_t bytes(const GlmConfig& config, const StepLimits& limits);

  struct View {
    const int32_t* ids = nullptr;          // [T]
    const int32_t* logit_rows = nullptr;   // [logit_rows.size()]
    const int32_t* hidden_rows = nullptr;  // [T], where the input has some
    kernels::BatchView batch;
  };
  // Valid until the next stage(), in order with queued work.
  [[nodiscard]] View stage(const StepInput& input);
  // The same, rounded up to a captured step's shape: the view is the same for every step of that
  // shape. Rows past the step's repeat its last one, rows of logits likewise. On a device only.
  [[nodiscard]] View stage(const StepInput& input, const StepShape& shape);
  // Of a staged step all of whose rows want logits, in order: row t's id becomes drawn[t], [rows of
  // the step, 1] int32 in the device's memory. Queued. On a device only.
  void take_ids(const View& view, ConstMatrixView drawn);

 private:
  void send();
  const int32_t* pack(const int32_t* host, int64_t count);
  // `count` >= 1 numbers, the last one repeated up to `rows`.
  const int32_t* pack_rows(const int32_t* host, int64_t count, int64_t rows);

  kernels::Backend* backend_ = nullptr;
  int64_t vocab_ = 0;
  device::Buffer device_;        // empty: host memory
  std::vector<int32_t> packed_;  // on its way
};

}  // namespace longshore::model
