// The target's last hidden states, in the backend's memory: a ring of rows. Where its oldest rows
// are still wanted, whoever wants them copies them to the host before they are written over.
//
// Rows have numbers that go up by one for ever. Threading: the engine's thread. Ownership: the
// backend outlives it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "model/memory_plan.h"

namespace longshore::engine {

class HiddenRows {
 public:
  // width: floats of a row; most: rows of one append() or stage(); the ring has at least twice as
  // many. kMemory, kDevice.
  static Result<std::unique_ptr<HiddenRows>> create(kernels::Backend& backend, int64_t width,
                                                    int64_t most, int64_t ring_bytes = kRingBytes);

  // hidden [1 to most, width] fp32 in the backend's memory. Queued. Returns the first one's number.
  int64_t append(ConstMatrixView hidden);
  // The lowest number that is there after `count` rows more.
  [[nodiscard]] int64_t lowest_after(int64_t count) const {
    return std::max<int64_t>(next_ + count - capacity_, 0);
  }
  // Rows [from, to) to the end of `host`. They are there. kDevice.
  [[nodiscard]] Result<void> copy_to(int64_t from, int64_t to, std::vector<float>& host) const;

  // What rows() of a step are rows of: [any, width] fp32. It does not move.
  [[nodiscard]] ConstMatrixView all() const { return view_; }
  [[nodiscard]] int32_t row(int64_t number) const {
    return static_cast<int32_t>(number % capacity_);
  }
  // A row of the host's [width] as the i-th of `most` beside the ring, until it is staged again.
  // Queued, as kernel parameters: the copy engine belongs to the weights.
  int32_t stage(int64_t i, const float* host);

  static constexpr int64_t kRingBytes = model::KeptHidden::kRingBytes;

 private:
  HiddenRows(kernels::Backend& backend, int64_t capacity, int64_t most)
      : backend_(&backend), capacity_(capacity), most_(most) {}

  kernels::Backend* backend_;
  int64_t capacity_;  // of the ring, at least 2 most_
  int64_t most_;
  int64_t next_ = 0;
  device::Buffer rows_;   // [capacity_ + most_, width] fp32
  device::Buffer count_;  // [most_] int32: 0, 1, 2, ...
  MatrixView view_;
};

}  // namespace longshore::engine
