#include "server/openai/errors.h"

#include "server/api/sse.h"

namespace longshore::server {
namespace {

const char* type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 429) return "rate_limit_error";
  if (status == 505) return "invalid_request_error";  // the client's choice of version
  return status >= 500 ? "server_error" : "invalid_request_error";
}

Json or_null(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

}  // namespace

std::string openai_error(const ApiError& error) {
  const Json inner = {{"message", error.message},
                      {"type", type_of(error.status)},
                      {"param", or_null(error.param)},
                      {"code", or_null(error.code)}};
  return to_text(Json{{"error", inner}});
}

}  // namespace longshore::server
