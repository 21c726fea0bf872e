#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

namespace longshore {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kReadPiece = int64_t{1} << 20;

// Owns a descriptor until release().
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Opens a regular file and tells its size. O_NONBLOCK: opening a named pipe must not wait for a
// writer.
Result<int64_t> open_regular(const std::string& path, ErrorKind kind, int& fd) {
  fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return fail(kind, "{}: cannot open: {}; check the path and its permissions", path,
                std::strerror(errno));
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    return fail(kind, "{}: cannot read its size: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode))
    return fail(kind, "{}: not a regular file; put the file itself there", path);
  return static_cast<int64_t>(status.st_size);
}

// Reads exactly count bytes from offset; false with errno set (0: the file ended).
bool read_exactly(int fd, char* to, int64_t count, int64_t offset) {
  while (count > 0) {
    const ssize_t got = pread(fd, to, static_cast<size_t>(count), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = 0;
    if (got <= 0) return false;
    to += got;
    count -= got;
    offset += got;
  }
  return true;
}

const char* reason(int error) {
  return error == 0 ? "the file ends early" : std::strerror(error);
}

}  // namespace

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  if (descriptor_ >= 0) close(descriptor_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Result<Mapping> Mapping::file(const std::string& path, ErrorKind kind) {
  int fd = -1;
  auto size = open_regular(path, kind, fd);
  Descriptor descriptor(fd);
  if (!size) return tl::unexpected<Error>(std::move(size).error());
  Mapping mapping;
  if (*size > 0) {
    void* data = mmap(nullptr, static_cast<size_t>(*size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      return fail(kind, "{}: cannot map {} bytes: {}", path, *size, std::strerror(errno));
    }
    mapping.data_ = static_cast<std::byte*>(data);
    mapping.bytes_ = *size;
  }
  mapping.descriptor_ = descriptor.release();
  return mapping;
}

Result<Mapping> Mapping::anonymous(int64_t bytes) {
  LS_CHECK_MSG(bytes >= 0, "{} bytes", bytes);
  Mapping mapping;
  if (bytes == 0) return mapping;
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return fail(ErrorKind::kMemory, "cannot allocate {:.2f} GB of memory: {}",
                static_cast<double>(bytes) / 1e9, std::strerror(errno));
  }
  // A refusal only costs speed.
  if (bytes >= kHugePage) (void)madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  mapping.data_ = static_cast<std::byte*>(data);
  mapping.bytes_ = bytes;
  return mapping;
}

std::byte* Mapping::writable() {
  LS_CHECK(!is_file());
  return data_;
}

Result<void> Mapping::populate(int64_t offset, int64_t count) const {
  LS_CHECK(offset >= 0 && count >= 0 && offset <= bytes_ - count);
  if (!is_file() || count == 0) return {};
#ifdef MADV_POPULATE_READ
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t begin = offset / page * page;
  const auto length = static_cast<size_t>(offset + count - begin);
  int error = EINTR;
  while (error == EINTR || error == EAGAIN) {
    error = madvise(data_ + begin, length, MADV_POPULATE_READ) == 0 ? 0 : errno;
  }
  if (error == 0) return {};
  if (error != EINVAL && error != ENOSYS) {
    return fail(
        ErrorKind::kIo, "cannot read bytes {} to {}: {}", offset, offset + count,
        error == EFAULT ? "the disk failed or the file was truncated" : std::strerror(error));
  }
#endif
  // Kernels before 5.14.
  // Reading into a scratch buffer fills the page cache and reports faults as errors.
  std::vector<char> scratch(static_cast<size_t>(std::min(count, kReadPiece)));
  for (int64_t done = 0; done < count; done += kReadPiece) {
    if (!read_exactly(descriptor_, scratch.data(), std::min(kReadPiece, count - done),
                      offset + done)) {
      return fail(ErrorKind::kIo, "cannot read bytes {} to {}: {}", offset, offset + count,
                  reason(errno));
    }
  }
  return {};
}

Result<Mapping> Mapping::room() const {
  LS_CHECK(is_file());
  // Whole blocks: the last one is read past the file's end.
  return anonymous((bytes_ + kDirectBytes - 1) / kDirectBytes * kDirectBytes);
}

Result<void> Mapping::read_into(Mapping& room, int64_t offset, int64_t count) const {
  LS_CHECK(is_file() && offset >= 0 && count >= 0 && offset <= bytes_ - count);
  LS_CHECK(offset % kDirectBytes == 0 && room.bytes_ >= bytes_);
  if (count == 0) return {};
  // A descriptor of its own: the flag belongs to the descriptor, and other threads read too.
  const std::string self = fmt::format("/proc/self/fd/{}", descriptor_);
  const Descriptor direct(open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  std::byte* to = room.writable() + offset;
  const int64_t whole = (count + kDirectBytes - 1) / kDirectBytes * kDirectBytes;
  int64_t done = 0;
  while (direct.get() >= 0 && done < count) {
    const ssize_t got =
        pread(direct.get(), to + done, static_cast<size_t>(whole - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || got % kDirectBytes != 0) {
      done = got > 0 ? std::min(count, done + got) : done;
      break;
    }
    done += got;
  }
  done = std::min(done, count);
  // No direct reads here, or a file whose end is in sight: the ordinary way.
  if (done < count &&
      !read_exactly(descriptor_, reinterpret_cast<char*>(to + done), count - done, offset + done)) {
    return fail(ErrorKind::kIo, "cannot read bytes {} to {}: {}", offset, offset + count,
                reason(errno));
  }
  return {};
}

Result<std::string> read_file(const std::string& path, int64_t max_bytes, ErrorKind kind) {
  int fd = -1;
  auto size = open_regular(path, kind, fd);
  const Descriptor descriptor(fd);
  if (!size) return tl::unexpected<Error>(std::move(size).error());
  if (*size > max_bytes) {
    return fail(kind, "{}: {} bytes, more than the {} that such a file may have", path, *size,
                max_bytes);
  }
  std::string content(static_cast<size_t>(*size), '\0');
  if (!read_exactly(fd, content.data(), *size, 0)) {
    return fail(kind, "{}: cannot read: {}", path, reason(errno));
  }
  return content;
}

}  // namespace longshore
