// Files and memory mappings.
//
// Ownership: a Mapping owns its pages and unmaps them when it is destroyed. Threading: a Mapping
// may be read by any number of threads; moving and destroying it is the owner's business. Errors
// name the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace longshore {

class Mapping {
 public:
  Mapping() = default;
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  // Maps a regular file read only. An empty file gives an empty mapping. Errors have the kind
  // `kind`.
  static Result<Mapping> file(const std::string& path, ErrorKind kind);
  // Zeroed private memory that is taken when touched, in huge pages where the system grants them.
  // kMemory.
  static Result<Mapping> anonymous(int64_t bytes);

  [[nodiscard]] const std::byte* data() const { return data_; }
  // Only for anonymous memory.
  [[nodiscard]] std::byte* writable();
  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] bool is_file() const { return descriptor_ >= 0; }

  // Memory of its own for a file's content, to be filled by read_into(). kMemory.
  [[nodiscard]] Result<Mapping> room() const;
  // [offset, offset + count) of the file -> the same place of room's memory, past the page cache
  // where the file system allows that: what is read once must not push out what is in use. kIo,
  // without the path. Any thread, for pieces that begin at a multiple of kDirectBytes.
  static constexpr int64_t kDirectBytes = 4096;
  [[nodiscard]] Result<void> read_into(Mapping& room, int64_t offset, int64_t count) const;

  // Brings [offset, offset + count) of a file into memory, waiting for the disk. A page that cannot
  // be read is an error (kIo, without the path) here, where touching it would raise SIGBUS.
  // Anonymous memory: nothing to do.
  [[nodiscard]] Result<void> populate(int64_t offset, int64_t count) const;

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int descriptor_ = -1;
};

// The whole content of a regular file of at most max_bytes. Errors have the kind `kind`.
Result<std::string> read_file(const std::string& path, int64_t max_bytes, ErrorKind kind);

}  // namespace longshore
