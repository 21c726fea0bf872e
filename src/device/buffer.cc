#include "device/buffer.h"

#include <utility>

namespace longshore::device {

Result<Buffer> Buffer::allocate(Memory& memory, int64_t bytes, const char* what) {
  LS_CHECK_MSG(bytes >= 0, "{}: {} bytes", what, bytes);
  Buffer buffer;
  if (bytes == 0) return buffer;
  LS_TRY(buffer.data_, memory.allocate(bytes, what));
  buffer.memory_ = &memory;
  buffer.bytes_ = bytes;
  return buffer;
}

Result<Buffer> Buffer::allocate(int64_t bytes, const char* what) {
  return allocate(host_memory(), bytes, what);
}

Buffer::~Buffer() {
  if (data_ != nullptr) memory_->free(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace longshore::device
