// One CUDA device: its stream, its properties, the scratch memory of operations, and the first
// fault.
//
// Ownership: the backend owns the context; everything else borrows it. Threading: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <cuda_runtime.h>

#include "base/check.h"
#include "base/error.h"
#include "device/memory.h"

namespace longshore::device::cuda {

// "out of memory (cudaErrorMemoryAllocation)".
[[nodiscard]] std::string describe(cudaError_t status);

class Context {
 public:
  // Error kDevice: no driver, no such device; kMemory: the scratch memory does not fit.
  static Result<std::unique_ptr<Context>> create(int device, int64_t scratch_bytes);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Where to launch. Makes the device the calling thread's: steps run on another thread than
  // loading did.
  [[nodiscard]] cudaStream_t stream() const {
    (void)cudaSetDevice(device_);
    return stream_;
  }
  [[nodiscard]] Memory& memory() { return *memory_; }
  [[nodiscard]] const std::string& name() const { return name_; }       // "NVIDIA H200"
  [[nodiscard]] int compute_capability() const { return capability_; }  // 90
  // Whether kernels were compiled to wait for earlier ones (kernels/cuda/common/launch.cuh).
  [[nodiscard]] bool launches_early() const { return launches_early_; }
  [[nodiscard]] int multiprocessors() const { return multiprocessors_; }
  [[nodiscard]] int64_t shared_bytes_per_block() const { return shared_bytes_; }  // opt-in limit

  // Called after every launch: keeps the first fault. `what` names the operation, a literal.
  void check(cudaError_t status, const char* what);
  void launched(const char* what) { check(cudaGetLastError(), what); }
  // Waits for the stream; the first fault since creation, if any: CUDA's errors do not go away.
  [[nodiscard]] Result<void> synchronize();

  // Memory for intermediate results within one operation, uninitialised, 256-byte aligned. Released
  // as a whole at the end of the operation by ScratchScope. Asking for more than there is is a
  // programmer's mistake: callers split their work.
  template <typename T>
  [[nodiscard]] T* scratch(int64_t count) {
    return reinterpret_cast<T*>(scratch_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  [[nodiscard]] int64_t scratch_left() const { return scratch_size_ - scratch_used_; }

 private:
  friend class ScratchScope;
  Context() = default;
  [[nodiscard]] std::byte* scratch_bytes(int64_t bytes);

  std::unique_ptr<Memory> memory_;
  cudaStream_t stream_ = nullptr;
  std::string name_;
  int capability_ = 0;
  bool launches_early_ = false;
  int multiprocessors_ = 0;
  int64_t shared_bytes_ = 0;
  std::byte* scratch_ = nullptr;
  int64_t scratch_size_ = 0;
  int64_t scratch_used_ = 0;
  std::optional<Error> fault_;
  int device_ = 0;
};

// Opened at the start of every operation that uses scratch memory.
class ScratchScope {
 public:
  explicit ScratchScope(Context& context) : context_(context), used_(context.scratch_used_) {}
  ~ScratchScope() { context_.scratch_used_ = used_; }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  Context& context_;
  int64_t used_;
};

}  // namespace longshore::device::cuda
