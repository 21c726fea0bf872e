// Python's two ways of formatting: '%s' % x and '{}'.format(x).
#pragma once

#include <string>

#include "base/error.h"
#include "text/jinja/runtime.h"

namespace longshore::text::jinja {

// format % arguments: a tuple for several, a dict for %(name)s.
[[nodiscard]] Result<Value> format_percent(Runtime& rt, const std::string& format,
                                           const Value& arguments);
// format.format(*positional, **keyword). Fields may be nested in attributes and items, not in
// format specs.
[[nodiscard]] Result<Value> format_braces(Runtime& rt, const std::string& format, const Args& args);

}  // namespace longshore::text::jinja
