// Values as text: Python's str() and repr(), and JSON.
#pragma once

#include <string>

#include "base/error.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace longshore::text::jinja {

// Python's repr of a float: the shortest decimal that reads back the same.
[[nodiscard]] std::string float_repr(double d);
// str(value), which for a string is itself and for Undefined nothing.
[[nodiscard]] Result<std::string> to_text(Runtime& rt, const Value& value);
[[nodiscard]] Result<void> append_text(Runtime& rt, const Value& value, std::string& out);
[[nodiscard]] Result<void> append_repr(Runtime& rt, const Value& value, std::string& out);

// The options of Python's json.dumps.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool multiline = false;
  std::string indent;  // of one level, when multiline
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
[[nodiscard]] Result<std::string> to_json(Runtime& rt, const Value& value, const JsonStyle& style);

}  // namespace longshore::text::jinja
