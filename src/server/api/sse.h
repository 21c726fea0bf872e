// JSON and server-sent events as text.
#pragma once

#include <string>
#include <string_view>

#include "text/chat_template.h"

namespace longshore::server {

using text::Json;

// One line; broken UTF-8 becomes U+FFFD.
[[nodiscard]] inline std::string to_text(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

[[nodiscard]] inline std::string sse_data(std::string_view data) {
  std::string event = "data: ";
  event += data;
  return event += "\n\n";
}

[[nodiscard]] inline std::string sse_event(std::string_view name, const Json& data) {
  std::string event = "event: ";
  event += name;
  event += '\n';
  return event += sse_data(to_text(data));
}

// A comment, which every client skips.
constexpr std::string_view kSseComment = ": keep-alive\n\n";

}  // namespace longshore::server
