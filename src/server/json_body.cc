#include "server/json_body.h"

#include <algorithm>

#include <fmt/format.h>

#include "text/json_depth.h"
#include "text/utf8.h"

namespace longshore::server {
namespace {

ApiError bad_body(std::string message) {
  return ApiError{400, std::move(message), "", "invalid_json"};
}

ApiError syntax_error(std::string_view body, size_t byte) {
  const std::string_view before = body.substr(0, std::min(body.size(), byte > 0 ? byte - 1 : 0));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column =
      1 + (newline == std::string_view::npos ? before.size() : before.size() - newline - 1);
  return bad_body(fmt::format("the body is not valid JSON: line {}, column {}", line, column));
}

}  // namespace

ApiResult<text::Json> parse_json_body(std::string_view body) {
  if (body.empty()) return tl::unexpected(bad_body("the body is empty: send a JSON object"));
  if (const auto at = text::find_invalid_utf8(body)) {
    return tl::unexpected(bad_body(fmt::format("the body is not UTF-8: byte {}", *at)));
  }
  if (text::nests_deeper(body, text::kMaxJsonDepth)) {
    return tl::unexpected(
        bad_body(fmt::format("the body is nested more than {} levels deep", text::kMaxJsonDepth)));
  }
  try {
    text::Json json = text::Json::parse(body);
    if (!json.is_object()) return tl::unexpected(bad_body("the body is not a JSON object"));
    return json;
  } catch (const text::Json::parse_error& error) {
    return tl::unexpected(syntax_error(body, error.byte));
  } catch (const text::Json::exception&) {
    return tl::unexpected(bad_body("the body holds a number that is out of range"));
  }
}

}  // namespace longshore::server
