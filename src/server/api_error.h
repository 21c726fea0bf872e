// An API call's failure before it takes a dialect's form.
#pragma once

#include <string>

#include <tl/expected.hpp>

#include "base/error.h"

namespace longshore::server {

struct ApiError {
  int status = 500;     // HTTP
  std::string message;  // one line
  std::string param;    // the request's field, or empty: "messages[2].content"
  std::string code;     // a machine-readable word, or empty: "context_length_exceeded"
};

template <typename T>
using ApiResult = tl::expected<T, ApiError>;

// kUsage 400, kBusy 429, kMemory and kCancelled 503, the rest 500.
[[nodiscard]] ApiError api_error(const Error& error);

}  // namespace longshore::server
