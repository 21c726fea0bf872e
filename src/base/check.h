// Checks against programmer's mistakes. They stay on in release builds and end the program at once
// with the place.
#pragma once

#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace longshore {

[[noreturn]] void check_failed(const char* file, int line, const char* what,
                               std::string_view detail);

}  // namespace longshore

#define LS_CHECK(condition) \
  ((condition) ? void(0) : ::longshore::check_failed(__FILE__, __LINE__, #condition, {}))
// With a detail: LS_CHECK_MSG(n > 0, "n is {}", n)
#define LS_CHECK_MSG(condition, ...) \
  ((condition)                       \
       ? void(0)                     \
       : ::longshore::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)))
#define LS_FAIL(...) \
  ::longshore::check_failed(__FILE__, __LINE__, "unreachable", ::fmt::format(__VA_ARGS__))
