// Memory that an operation needs while it runs: kept from call to call and grown when a larger
// batch comes.
//
// Ownership: the backend's; contents are undefined at every get(). Threading: one user at a time.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "device/buffer.h"

namespace longshore::kernels::cpu {

class Scratch {
 public:
  // At least `bytes` bytes, 64-byte aligned; earlier pointers become invalid.
  [[nodiscard]] std::byte* get(int64_t bytes) {
    if (buffer_.bytes() < bytes || buffer_.data() == nullptr) {
      buffer_ = {};
      auto grown = device::Buffer::allocate(bytes + bytes / 4 + 64, "cpu kernel scratch");
      LS_CHECK_MSG(grown.has_value(), "{}", grown.error().message);
      buffer_ = std::move(*grown);
    }
    return buffer_.data();
  }
  template <typename T>
  [[nodiscard]] T* get_as(int64_t count) {
    return reinterpret_cast<T*>(get(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  device::Buffer buffer_;
};

}  // namespace longshore::kernels::cpu
