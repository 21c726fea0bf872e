// The server's log: one line per event on standard error.
//
// Threading: any thread; a line is written whole.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace longshore::server {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

void set_log_level(LogLevel level);
[[nodiscard]] bool logs(LogLevel level);
// Control characters of the line are written as '?': what a client sent cannot forge lines.
void log_line(LogLevel level, std::string_view line);

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (logs(level)) log_line(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace longshore::server
