// Failures in OpenAI's form.
#pragma once

#include <string>

#include "server/api_error.h"

namespace longshore::server {

// {"error": {"message", "type", "param", "code"}}; the type follows from the status.
[[nodiscard]] std::string openai_error(const ApiError& error);

}  // namespace longshore::server
