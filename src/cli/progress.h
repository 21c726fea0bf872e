// Progress on stderr, one line that rewrites itself; silent when stderr is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace longshore::cli {

// Bytes with GB/s and time left.
class ByteProgress {
 public:
  explicit ByteProgress(std::string label);
  void update(int64_t done, int64_t total);
  void finish();

 private:
  std::string label_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

// Items of a batch.
class ItemProgress {
 public:
  explicit ItemProgress(std::string label);
  void update(int64_t done, int64_t total, const std::string& note);
  void finish();

 private:
  std::string label_;
  bool terminal_;
  bool shown_ = false;
};

}  // namespace longshore::cli
