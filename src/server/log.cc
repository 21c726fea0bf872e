#include "server/log.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>

#include <fmt/chrono.h>

namespace longshore::server {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

const char* name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    default:
      return "error";
  }
}

}  // namespace

void set_log_level(LogLevel level) {
  g_level.store(level, std::memory_order_relaxed);
}

bool logs(LogLevel level) {
  return level >= g_level.load(std::memory_order_relaxed);
}

void log_line(LogLevel level, std::string_view line) {
  const auto now = std::chrono::system_clock::now();
  const auto millis =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::string text = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z {} {}",
                                 fmt::gmtime(std::time(nullptr)), millis, name(level), line);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  text += '\n';
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace longshore::server
