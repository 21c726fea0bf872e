// Captured work of a context's stream as CUDA graphs.
//
// Ownership: the backend owns it; the context outlives it. Threading: one thread.
#pragma once

#include <map>

#include <cuda_runtime.h>

#include "device/cuda/context.h"
#include "device/graphs.h"

namespace longshore::device::cuda {

class CudaGraphs final : public Graphs {
 public:
  explicit CudaGraphs(Context& context) : context_(context) {}
  ~CudaGraphs() override;
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;

  void begin_capture() override;
  [[nodiscard]] Result<Id> end_capture() override;
  void launch(Id id) override;
  void drop(Id id) override;

 private:
  Context& context_;
  std::map<Id, cudaGraphExec_t> graphs_;
  Id last_ = 0;
};

}  // namespace longshore::device::cuda
