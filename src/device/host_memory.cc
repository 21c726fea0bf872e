#include <cerrno>
#include <cstring>

#include <sys/mman.h>

#include "base/memory.h"
#include "device/memory.h"

namespace longshore::device {
namespace {

constexpr int64_t kHugePage = 2 << 20;

class HostMemory final : public Memory {
 public:
  [[nodiscard]] bool host() const override { return true; }

  [[nodiscard]] Result<std::byte*> allocate(int64_t bytes, const char* what) override {
    // mmap: page-aligned, and memory that is never touched is never taken.
    void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return fail(ErrorKind::kMemory, "{}: cannot allocate {:.2f} GB of host memory: {}", what,
                  static_cast<double>(bytes) / 1e9, std::strerror(errno));
    }
    // Fewer address translations; a refusal only costs speed.
    if (bytes >= kHugePage) (void)madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#ifndef NDEBUG
    // NaN in fp32, bf16, fp16 and e4m3.
    std::memset(data, 0xFF, static_cast<size_t>(bytes));
#endif
    return static_cast<std::byte*>(data);
  }

  void free(std::byte* data, int64_t bytes) override {
    munmap(data, static_cast<size_t>(bytes));
  }

  [[nodiscard]] int64_t available() const override {
    return available_memory();
  }

  [[nodiscard]] Result<void> upload(std::byte* to, const void* host, int64_t bytes) override {
    std::memcpy(to, host, static_cast<size_t>(bytes));
    return {};
  }
  [[nodiscard]] Result<void> download(void* host, const std::byte* from, int64_t bytes) override {
    std::memcpy(host, from, static_cast<size_t>(bytes));
    return {};
  }
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace longshore::device
