// The Observer as the layers see it: where the backend's memory is not the host's, it is given
// copies. Without an observer nothing is copied and nobody waits.
//
// Ownership: observer and backend outlive the tap. Threading: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "model/observer.h"

namespace longshore::model {

class Tap {
 public:
  // observer may be null.
  Tap(Observer* observer, kernels::Backend& backend) : observer_(observer), backend_(&backend) {}

  // As Observer's functions; all views in the backend's memory.
  void hidden(int64_t layer, ConstMatrixView x);
  [[nodiscard]] MatrixView score_buffer(int64_t layer, int64_t tokens);
  void selection(int64_t layer, ConstMatrixView selected, const int32_t* counts);
  // The first `chosen` of each token: what the router chose.
  void routes(int64_t layer, ConstMatrixView ids, ConstMatrixView weights, int64_t chosen);

  // The first copy or allocation that failed: the observer has heard nothing since.
  [[nodiscard]] Result<void> status() const;

 private:
  // copy: the rows of m in host memory, in `to` unless they are there. False: it failed.
  bool fetch(ConstMatrixView m, std::vector<std::byte>& to, ConstMatrixView& copy);
  bool keep(const Result<void>& result);

  Observer* observer_;
  kernels::Backend* backend_;
  device::Buffer device_scores_;
  MatrixView host_scores_;
  std::vector<std::byte> first_, second_;  // copies
  std::optional<Error> fault_;
};

// Copies a matrix without gaps from the backend's memory to the host's, once the work queued for it
// is done. kDevice.
[[nodiscard]] Result<void> fetch(kernels::Backend& backend, const ConstMatrixView& from,
                                 const MatrixView& to);

}  // namespace longshore::model
