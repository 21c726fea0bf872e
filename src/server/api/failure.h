// A completion that did not come to its end, as an API failure.
#pragma once

#include <optional>

#include "server/api_error.h"
#include "session/completion.h"

namespace longshore::server {

// Nothing where it ended by itself, by a stop or by its length. An answer that was cut by a fault,
// a deadline (504) or a cancellation (503) is a failure in every dialect: none has a finish reason
// for it.
[[nodiscard]] std::optional<ApiError> failure_of(const session::Completion& completion);

}  // namespace longshore::server
