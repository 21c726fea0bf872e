// Errors as values for the world's faults: files, memory, devices, clients. A programmer's mistake
// is a CHECK (check.h).
//
// An Error carries one line that a user can act on: what happened, where (file, tensor, key, flag),
// what to do.
#pragma once

#include <string>
#include <utility>

#include <fmt/format.h>
#include <tl/expected.hpp>

namespace longshore {

// The kind decides the process's exit code and, in a server, the HTTP status.
enum class ErrorKind {
  kUsage,      // a flag, a request or a prompt that cannot be taken: exit code 2
  kModel,      // a checkpoint, tokenizer or template that is broken or not supported: 3
  kMemory,     // not enough host or device memory: 4
  kDevice,     // a device failed or is absent: 5
  kCancelled,  // the user stopped it: 130
  kBusy,       // a queue is full, try again later: 1 (HTTP 429)
  kIo,         // reading or writing something other than the model failed: 1
};

struct Error {
  ErrorKind kind;
  std::string message;  // one line, no trailing newline
};

template <typename T>
using Result = tl::expected<T, Error>;

// `return fail(ErrorKind::kModel, "{}: tensor {} is missing", file, name);`
template <typename... Args>
[[nodiscard]] tl::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> format,
                                         Args&&... args) {
  return tl::unexpected<Error>(Error{kind, fmt::format(format, std::forward<Args>(args)...)});
}

[[nodiscard]] int exit_code(ErrorKind kind);

}  // namespace longshore

// LS_TRY(auto x, f()): x is f()'s value, or the enclosing function returns f()'s error.
#define LS_CONCAT_(a, b) a##b
#define LS_CONCAT(a, b) LS_CONCAT_(a, b)
#define LS_TRY(target, expression) LS_TRY_(LS_CONCAT(ls_try_, __LINE__), target, expression)
#define LS_TRY_(name, target, expression)                                          \
  auto name = (expression);                                                        \
  if (!name) return ::tl::unexpected<::longshore::Error>(std::move(name).error()); \
  target = std::move(*name)
// LS_TRY_VOID(f()): the same for Result<void>.
#define LS_TRY_VOID(expression)                          \
  if (auto ls_try_result = (expression); !ls_try_result) \
  return ::tl::unexpected<::longshore::Error>(std::move(ls_try_result).error())
