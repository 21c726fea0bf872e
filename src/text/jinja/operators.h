// Python's operators and look-ups on template values.
#pragma once

#include <optional>
#include <string_view>

#include "base/error.h"
#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace longshore::text::jinja {

// + - * / // % **, and the unary - and +. int64 overflow is an error.
[[nodiscard]] Result<Value> arithmetic(Runtime& rt, Op op, const Value& a, const Value& b);
[[nodiscard]] Result<Value> negate(const Value& a, bool minus);
[[nodiscard]] Result<Value> checked_integer(bool overflow, int64_t value);

[[nodiscard]] Result<bool> equal(Runtime& rt, const Value& a, const Value& b);
// a < b for numbers, strings and sequences; an error for other types.
[[nodiscard]] Result<bool> less(Runtime& rt, const Value& a, const Value& b);
[[nodiscard]] Result<bool> contains(Runtime& rt, const Value& container, const Value& item);
[[nodiscard]] Result<bool> compare(Runtime& rt, Comparison op, const Value& a, const Value& b);

// object.name: a method or attribute, else the item of this name, else Undefined.
[[nodiscard]] Result<Value> attribute(Runtime& rt, const Value& object, std::string_view name);
// object[key]: the item, else (for a string key) the attribute, else Undefined.
[[nodiscard]] Result<Value> item(Runtime& rt, const Value& object, const Value& key);
// object[start:stop:step]; missing or none parts take Python's defaults.
[[nodiscard]] Result<Value> slice(Runtime& rt, const Value& object, const Value& start,
                                  const Value& stop, const Value& step);

// The error that the use of an Undefined causes; other values pass.
[[nodiscard]] Result<void> refuse_undefined(const Value& value);

}  // namespace longshore::text::jinja
