// The tables of filters, one per file, and what they share.
#pragma once

#include <functional>
#include <span>

#include "text/jinja/arguments.h"

namespace longshore::text::jinja {

[[nodiscard]] std::span<const Builtin> string_filters();
[[nodiscard]] std::span<const Builtin> number_filters();
[[nodiscard]] std::span<const Builtin> sequence_filters();
[[nodiscard]] std::span<const Builtin> selection_filters();
[[nodiscard]] std::span<const Builtin> sorting_filters();

// object's attribute by jinja2's path: "a.b.0"; an integer is an index. An absent last part is
// `otherwise`, if given.
[[nodiscard]] Result<Value> attribute_path(Runtime& rt, const Value& object, const Value& path,
                                           const Value& otherwise = {});
// Text in lower case unless case matters; other values as they are.
[[nodiscard]] Value fold_case(const Value& value, bool case_sensitive);

// text with at most `count` (all, if negative) occurrences of `from` replaced.
[[nodiscard]] Result<Value> replace_text(Runtime& rt, const std::string& text,
                                         const std::string& from, const std::string& to,
                                         int64_t count);

// A stable merge sort that stops at the first failing comparison.
using LessThan = std::function<Result<bool>(const Value& a, const Value& b)>;
[[nodiscard]] Result<void> sort_by(std::vector<Value>& items, const std::vector<Value>& keys,
                                   bool reverse, const LessThan& before);

}  // namespace longshore::text::jinja
