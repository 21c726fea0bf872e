// The escapes of Python's string literals.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace longshore::text::jinja {

// What stands between a literal's quotes, decoded. \N{...} is refused. Unknown escapes keep their
// backslash.
[[nodiscard]] Result<std::string> unescape(std::string_view literal);

}  // namespace longshore::text::jinja
