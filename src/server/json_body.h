// A request's body to JSON, bounded: nothing that is deep enough to exhaust the stack of whoever
// walks it later.
//
// Threading: plain functions.
#pragma once

#include <string_view>

#include "server/api_error.h"
#include "text/chat_template.h"

namespace longshore::server {

// 400: not JSON (with line and column), not UTF-8, nested deeper than text::kMaxJsonDepth, not an
// object.
[[nodiscard]] ApiResult<text::Json> parse_json_body(std::string_view body);

}  // namespace longshore::server
