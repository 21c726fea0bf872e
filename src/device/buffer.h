// Memory that tensors live in.
//
// Ownership: a Buffer owns its bytes and frees them when destroyed; it moves, it does not copy. The
// Memory that it came from outlives it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/tensor.h"
#include "device/memory.h"

namespace longshore::device {

class Buffer {
 public:
  Buffer() = default;
  // Contents undefined (host memory in debug builds: NaN patterns). Host pages are touched on first
  // use. Error kMemory names `what` and the size.
  static Result<Buffer> allocate(Memory& memory, int64_t bytes, const char* what);
  // In host memory.
  static Result<Buffer> allocate(int64_t bytes, const char* what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  Memory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace longshore::device
