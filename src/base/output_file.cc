#include "base/output_file.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

namespace longshore {
namespace {

// Where the path leads: behind every symbolic link, also where the last one names nothing yet.
std::string follow(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the kernel's
  std::filesystem::path at = path;
  std::error_code failed;
  for (int links = 0; links < kMostLinks && std::filesystem::is_symlink(at, failed); ++links) {
    const std::filesystem::path next = std::filesystem::read_symlink(at, failed);
    if (failed) break;
    at = at.parent_path() / next;  // an absolute `next` replaces all
  }
  return at.string();
}

// The mode that open() would give a new file. umask() can only be read by setting it, which other
// threads would notice.
mode_t default_mode() {
  constexpr mode_t kUsual = 022;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Umask:"))
      return 0666 & ~static_cast<mode_t>(std::strtoul(line.c_str() + 6, nullptr, 8));
  }
  return 0666 & ~kUsual;
}

}  // namespace

tl::unexpected<Error> OutputFile::error(int number) const {
  return fail(ErrorKind::kIo, "{}: cannot write: {}", path_, std::strerror(number));
}

Result<OutputFile> OutputFile::create(const std::string& path) {
  OutputFile file;
  file.path_ = path;
  struct stat status {};
  // stat() follows links, those of /proc too, which name no path.
  const bool exists = stat(path.c_str(), &status) == 0;
  if (exists && !S_ISREG(status.st_mode)) {
    file.descriptor_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (file.descriptor_ < 0) return file.error(errno);
    return file;
  }
  file.target_ = follow(path);
  file.partial_ = file.target_ + "." + std::string(6, 'X');  // mkostemp replaces the letters
  file.descriptor_ = mkostemp(file.partial_.data(), O_CLOEXEC);
  if (file.descriptor_ < 0) {
    const int number = errno;
    file.partial_.clear();
    return file.error(number);
  }
  if (fchmod(file.descriptor_, exists ? status.st_mode & 07777 : default_mode()) != 0)
    return file.error(errno);
  return file;
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!partial_.empty()) unlink(partial_.c_str());
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      target_(std::move(other.target_)),
      partial_(std::exchange(other.partial_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(target_, other.target_);
  std::swap(partial_, other.partial_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Result<void> OutputFile::write(const void* data, size_t bytes) {
  LS_CHECK(descriptor_ >= 0);
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return error(errno);
    at += written;
    bytes -= static_cast<size_t>(written);
  }
  return {};
}

Result<void> OutputFile::commit() {
  LS_CHECK(descriptor_ >= 0);
  // A full or failing disk may tell only now. Pipes and devices know no fsync.
  if (!partial_.empty() && fsync(descriptor_) != 0) return error(errno);
  if (close(std::exchange(descriptor_, -1)) != 0) return error(errno);
  if (partial_.empty()) return {};
  if (std::rename(partial_.c_str(), target_.c_str()) != 0) return error(errno);
  partial_.clear();
  return {};
}

}  // namespace longshore
