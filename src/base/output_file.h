// A file that is there whole or not at all.
//
// A regular file is written beside its place and moved there once it is complete and on the disk;
// through a symbolic link, to the place that the link names. What is no regular file (standard
// output, a pipe, a device) is written directly. Ownership: holds the descriptor, and the
// unfinished file until commit(). Threading: one thread.
#pragma once

#include <cstddef>
#include <string>

#include "base/error.h"

namespace longshore {

class OutputFile {
 public:
  // kIo, as all errors here; they name the path and the system's reason.
  static Result<OutputFile> create(const std::string& path);
  // Without commit() the unfinished file goes away and what stood in its place stays.
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;

  [[nodiscard]] Result<void> write(const void* data, size_t bytes);
  // Nothing may be written after it.
  [[nodiscard]] Result<void> commit();

 private:
  OutputFile() = default;
  [[nodiscard]] tl::unexpected<Error> error(int number) const;

  std::string path_;     // as the caller wrote it
  std::string target_;   // behind symbolic links
  std::string partial_;  // empty: written directly
  int descriptor_ = -1;
};

}  // namespace longshore
