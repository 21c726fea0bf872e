#include "device/buffer.h"

#include <cstring>
#include <utility>

#include <sys/mman.h>

namespace longshore::device {
namespace {

constexpr int64_t kHugePage = 2 << 20;

}  // namespace

Result<Buffer> Buffer::allocate(int64_t bytes, const char* what) {
  LS_CHECK_MSG(bytes >= 0, "{}: {} bytes", what, bytes);
  Buffer buffer;
  if (bytes == 0) return buffer;
  // mmap: page-aligned, and memory that is never touched is never taken.
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorKind::kMemory, "{}: cannot allocate {:.2f} GB of host memory: {}", what,
                static_cast<double>(bytes) / 1e9, std::strerror(errno));
  }
  // Fewer address translations; a refusal only costs speed.
  if (bytes >= kHugePage) (void)madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
#ifndef NDEBUG
  std::memset(data, 0xFF, static_cast<size_t>(bytes));  // NaN in fp32, bf16, fp16 and e4m3
#endif
  return buffer;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace longshore::device
