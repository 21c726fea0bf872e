// Memory that tensors live in. Today host memory only; a CUDA device adds its own allocator behind
// the same type.
//
// Ownership: a Buffer owns its bytes and frees them when destroyed; it moves, it does not copy.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/tensor.h"

namespace longshore::device {

class Buffer {
 public:
  Buffer() = default;
  // 64-byte aligned, contents undefined (in debug builds poisoned with NaN patterns). Pages are
  // touched on first use. Error kMemory names `what` and the size.
  static Result<Buffer> allocate(int64_t bytes, const char* what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace longshore::device
