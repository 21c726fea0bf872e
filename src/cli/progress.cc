#include "cli/progress.h"

#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

namespace longshore::cli {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(100);

std::string bar(double fraction) {
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(fraction * kWidth);
  return std::string(static_cast<size_t>(filled), '#') +
         std::string(static_cast<size_t>(kWidth - filled), '.');
}

void show(const std::string& line) {
  fmt::print(stderr, "\r\033[K{}", line);
}

}  // namespace

ByteProgress::ByteProgress(std::string label)
    : label_(std::move(label)),
      terminal_(isatty(2) == 1),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

void ByteProgress::update(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || total <= 0 || (now - last_ < kInterval && done < total)) return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / (seconds > 0 ? seconds : 1e-9);
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  show(fmt::format("{} [{}] {:.1f} of {:.1f} GB, {:.1f} GB/s, {:.0f} s left", label_,
                   bar(static_cast<double>(done) / static_cast<double>(total)),
                   static_cast<double>(done) / 1e9, static_cast<double>(total) / 1e9, rate / 1e9,
                   left));
}

void ByteProgress::finish() {
  if (shown_) show("");
  shown_ = false;
}

ItemProgress::ItemProgress(std::string label)
    : label_(std::move(label)), terminal_(isatty(2) == 1) {}

void ItemProgress::update(int64_t done, int64_t total, const std::string& note) {
  if (!terminal_ || total <= 0) return;
  shown_ = true;
  show(fmt::format("{} [{}] {} of {} {}", label_,
                   bar(static_cast<double>(done) / static_cast<double>(total)), done, total, note));
}

void ItemProgress::finish() {
  if (shown_) show("");
  shown_ = false;
}

}  // namespace longshore::cli
