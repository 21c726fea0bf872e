#include "server/anthropic/errors.h"

#include "server/api/sse.h"

namespace longshore::server {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
    case 529:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

text::Json anthropic_error_json(const ApiError& error) {
  return {{"type", "error"},
          {"error", {{"type", type_of(error.status)}, {"message", error.message}}}};
}

std::string anthropic_error(const ApiError& error) {
  return to_text(anthropic_error_json(error));
}

}  // namespace longshore::server
