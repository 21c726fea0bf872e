// Where the tensors of a backend live: host memory, or a device's own.
//
// Ownership: allocate() and free() are for Buffer; everybody else passes a Memory on. It outlives
// every Buffer that was made from it. Threading: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"

namespace longshore::device {

class Memory {
 public:
  virtual ~Memory() = default;

  // Whether host code may read and write through the pointers.
  [[nodiscard]] virtual bool host() const = 0;

  // At least 64-byte aligned (a device: 256), contents undefined. bytes >= 1. Error kMemory names
  // `what` and the size.
  [[nodiscard]] virtual Result<std::byte*> allocate(int64_t bytes, const char* what) = 0;
  virtual void free(std::byte* data, int64_t bytes) = 0;

  // Bytes that allocate() may still give.
  [[nodiscard]] virtual int64_t available() const = 0;

  // Copies between host memory and this memory: when they return, all work that the device had been
  // given is done, and so is the copy. upload() is for loading and for tests, never while serving:
  // that copy engine belongs to the weights (docs/decisions/device-memory.md). Error kDevice.
  [[nodiscard]] virtual Result<void> upload(std::byte* to, const void* host, int64_t bytes) = 0;
  [[nodiscard]] virtual Result<void> download(void* host, const std::byte* from, int64_t bytes) = 0;
};

[[nodiscard]] Memory& host_memory();

}  // namespace longshore::device
