#include "server/api/failure.h"

namespace longshore::server {

std::optional<ApiError> failure_of(const session::Completion& completion) {
  const std::string& reason = completion.finish_reason;
  if (reason == "error") {
    ApiError made = completion.error ? api_error(*completion.error) : ApiError{};
    if (made.message.empty())
      made.message = "the engine failed on this request: see the server's log";
    return made;
  }
  if (reason == "deadline") {
    return ApiError{
        .status = 504,
        .message =
            "the request's deadline passed before the answer was complete: ask for fewer tokens or "
            "raise the server's deadline",
        .param = {},
        .code = "deadline_exceeded"};
  }
  if (reason == "cancelled") {
    return ApiError{
        .status = 503,
        .message = "the request was cancelled before the answer was complete: try again",
        .param = {},
        .code = "cancelled"};
  }
  return std::nullopt;
}

}  // namespace longshore::server
