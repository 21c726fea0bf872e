// Runs the built `longshore` as a user's shell would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longshore {

struct Finished {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
  int64_t peak_bytes = 0;  // of resident memory, mapped files included
};

// arguments: without the program's name. input: all of standard input.
// interrupt_ms: unless negative, SIGINT after that time and standard input stays open until then.
// until: the interrupt comes that long after standard output holds this text.
// output: a file that receives standard output instead; `out` stays empty.
[[nodiscard]] Finished longshore(const std::vector<std::string>& arguments,
                                 const std::string& input = "", int interrupt_ms = -1,
                                 const std::string& output = "", const std::string& until = "");

// The same of another copy of it.
[[nodiscard]] Finished run_program(const std::string& program,
                                   const std::vector<std::string>& arguments,
                                   const std::string& input = "", int interrupt_ms = -1,
                                   const std::string& output = "", const std::string& until = "");

[[nodiscard]] std::vector<std::string> lines_of(const std::string& text);
[[nodiscard]] std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& content);

// A directory that goes away with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace longshore
