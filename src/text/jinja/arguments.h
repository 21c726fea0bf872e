// Arguments of builtins with their defaults, and tables of builtins.
#pragma once

#include <span>
#include <string>

#include "base/error.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"

namespace longshore::text::jinja {

inline Result<int64_t> integer_argument(const Value& value, int64_t otherwise) {
  if (value.missing()) return otherwise;
  LS_TRY_VOID(refuse_undefined(value));
  if (!value.is_integer())
    return raise("'{}' object cannot be interpreted as an integer", value.type_name());
  return value.as_int();
}

// Of none too: Python's methods take None for "not given" in most places.
inline Result<int64_t> optional_integer(const Value& value, int64_t otherwise) {
  return value.none_value() ? Result<int64_t>(otherwise) : integer_argument(value, otherwise);
}

inline Result<std::string> string_argument(const Value& value, std::string_view otherwise) {
  if (value.missing()) return std::string(otherwise);
  LS_TRY_VOID(refuse_undefined(value));
  if (!value.is_string()) return raise("a string is expected, not {}", value.type_name());
  return value.as_string();
}

inline bool flag_argument(const Value& value, bool otherwise) {
  return value.missing() ? otherwise : value.truthy();
}

inline const Builtin* find_in(std::span<const Builtin> table, std::string_view name) {
  for (const Builtin& builtin : table) {
    if (builtin.name == name) return &builtin;
  }
  return nullptr;
}

}  // namespace longshore::text::jinja
