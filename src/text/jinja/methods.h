// The tables of methods by type.
#pragma once

#include <span>

#include "text/jinja/runtime.h"

namespace longshore::text::jinja {

[[nodiscard]] std::span<const Builtin> string_methods();

}  // namespace longshore::text::jinja
