// A backend that times every operation of another one: where a step's time goes.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace longshore::bench {

struct OperationTime {
  double seconds = 0;
  double bytes = 0;  // of weights read; 0: an operation without weights
  int64_t calls = 0;
};

// By operation, products by shape: "linear 6144 x 16384 FP8".
using OperationTimes = std::map<std::string, OperationTime>;

// times outlives the backend and is read between steps, by the thread that runs them. inner
// computes at once (host memory): a device's queue would show the queueing alone.
[[nodiscard]] std::unique_ptr<kernels::Backend> make_timed_backend(
    std::unique_ptr<kernels::Backend> inner, OperationTimes& times);

}  // namespace longshore::bench
