// Failures in Anthropic's form.
#pragma once

#include <string>

#include "server/api_error.h"
#include "text/chat_template.h"

namespace longshore::server {

// {"type": "error", "error": {"type", "message"}}; the type follows from the status.
[[nodiscard]] text::Json anthropic_error_json(const ApiError& error);
[[nodiscard]] std::string anthropic_error(const ApiError& error);

}  // namespace longshore::server
