// Filters that take a sequence or mapping as a whole.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

Out length(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const int64_t count, rt.length(a[0]));
  return Value::integer(count);
}

Out or_default(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  const bool replaced = a[0].undefined() || (flag_argument(a[2], false) && !a[0].truthy());
  if (!replaced) return a[0];
  return a[1].missing() ? Value::string("") : a[1];
}

Out first(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (a[0].is(Kind::kIterator)) {
    auto& iterator = a[0].as<Iterator>();
    if (iterator.at < iterator.items->items.size()) return iterator.items->items[iterator.at++];
    return Value::undefined("No first item, sequence was empty.");
  }
  LS_TRY(const Items items, rt.iterate(a[0]));
  return items->items.empty() ? Value::undefined("No first item, sequence was empty.")
                              : items->items.front();
}

bool reversible(const Value& value) {
  return value.undefined() || value.is_string() || value.is_sequence() || value.is(Kind::kDict) ||
         value.is(Kind::kView) || value.is(Kind::kRange);
}

Out last(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (!reversible(a[0])) return raise("'{}' object is not reversible", a[0].type_name());
  LS_TRY(const Items items, rt.iterate(a[0]));
  return items->items.empty() ? Value::undefined("No last item, sequence was empty.")
                              : items->items.back();
}

Out reverse(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  if (!a[0].is_string()) return rt.iterator({items->items.rbegin(), items->items.rend()});
  std::string out;
  for (auto it = items->items.rbegin(); it != items->items.rend(); ++it) out += it->as_string();
  return rt.string(std::move(out));
}

Out list(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  return rt.list(items->items);
}

Out join(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  LS_TRY(const std::string separator, a[1].missing() ? Result<std::string>("") : to_text(rt, a[1]));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    if (i > 0) out += separator;
    LS_TRY_VOID(rt.charge(static_cast<int64_t>(separator.size()) / 16 + 1));
    if (a[2].missing() || a[2].none_value()) {
      LS_TRY_VOID(append_text(rt, items->items[i], out));
    } else {
      LS_TRY(const Value value, attribute_path(rt, items->items[i], a[2]));
      LS_TRY_VOID(append_text(rt, value, out));
    }
    if (static_cast<int64_t>(out.size()) > rt.limits().output_bytes) break;
  }
  return rt.string(std::move(out));
}

Out items(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (a[0].undefined()) return rt.iterator({});
  if (!a[0].is(Kind::kDict)) return raise("Can only get item pairs from a mapping.");
  LS_TRY(const Items pairs,
         rt.iterate(Value::object(
             Kind::kView, std::make_shared<View>(a[0].dict_pointer(), View::Part::kItems))));
  return rt.iterator(pairs->items);
}

Out sum(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  Value total = a[2].missing() ? Value::integer(0) : a[2];
  if (total.is_string()) return raise("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& element : items->items) {
    Value value = element;
    if (!a[1].missing() && !a[1].none_value()) {
      LS_TRY(value, attribute_path(rt, element, a[1]));
    }
    LS_TRY(total, arithmetic(rt, Op::kAdd, total, value));
  }
  return total;
}

Out batch(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  LS_TRY(const int64_t size, integer_argument(a[1], 1));
  LS_TRY_VOID(rt.charge_product(32, a[2].missing() || a[2].none_value() ? 0 : size));
  std::vector<Value> out;
  std::vector<Value> row;
  const auto flush = [&]() -> Result<void> {
    LS_TRY(Value value, rt.list(std::exchange(row, {})));
    out.push_back(std::move(value));
    return {};
  };
  for (const Value& value : items->items) {
    if (static_cast<int64_t>(row.size()) == size) LS_TRY_VOID(flush());
    row.push_back(value);
  }
  if (row.empty()) return rt.iterator(std::move(out));
  while (!a[2].missing() && !a[2].none_value() && static_cast<int64_t>(row.size()) < size)
    row.push_back(a[2]);
  LS_TRY_VOID(flush());
  return rt.iterator(std::move(out));
}

Out slices(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  LS_TRY(const int64_t count, integer_argument(a[1], 1));
  if (count == 0) return raise("integer division or modulo by zero");
  LS_TRY_VOID(rt.charge_product(64, count));
  const auto total = static_cast<int64_t>(items->items.size());
  std::vector<Value> out;
  int64_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = total / count + (i < total % count ? 1 : 0);
    std::vector<Value> row(items->items.begin() + at, items->items.begin() + at + size);
    at += size;
    if (!a[2].missing() && !a[2].none_value() && i >= total % count) row.push_back(a[2]);
    LS_TRY(Value value, rt.list(std::move(row)));
    out.push_back(std::move(value));
  }
  return rt.iterator(std::move(out));
}

Out attr(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string name, to_text(rt, a[1]));
  if (a[0].is(Kind::kDict) && find_method(a[0], name) == nullptr) {
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", name));
  }
  return attribute(rt, a[0], name);
}

constexpr Builtin kFilters[] = {
    {"length", "obj", 1, length},
    {"count", "obj", 1, length},
    {"default", "value,default_value,boolean", 1, or_default},
    {"d", "value,default_value,boolean", 1, or_default},
    {"first", "seq", 1, first},
    {"last", "seq", 1, last},
    {"reverse", "value", 1, reverse},
    {"list", "value", 1, list},
    {"join", "value,d,attribute", 1, join},
    {"items", "value", 1, items},
    {"sum", "iterable,attribute,start", 1, sum},
    {"batch", "value,linecount,fill_with", 2, batch},
    {"slice", "value,slices,fill_with", 2, slices},
    {"attr", "obj,name", 2, attr},
};

}  // namespace

std::span<const Builtin> sequence_filters() {
  return kFilters;
}

Value fold_case(const Value& value, bool case_sensitive) {
  return case_sensitive || !value.is_string() ? value : Value::string(to_lower(value.as_string()));
}

Result<Value> attribute_path(Runtime& rt, const Value& object, const Value& path,
                             const Value& otherwise) {
  Value value = object;
  if (path.is_integer()) {
    LS_TRY(value, item(rt, object, path));
  } else {
    LS_TRY(const std::string text, to_text(rt, path));
    std::string_view left = text;
    for (bool more = !left.empty(); more;) {
      const size_t dot = left.find('.');
      more = dot != std::string_view::npos;
      const std::string part(left.substr(0, dot));
      left.remove_prefix(more ? dot + 1 : left.size());
      const bool number =
          !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
      LS_TRY(value,
             item(rt, value, number ? Value::integer(std::stoll(part)) : Value::string(part)));
      if (value.undefined() && !otherwise.missing()) value = otherwise;
    }
  }
  if (value.undefined() && !otherwise.missing()) return otherwise;
  return value;
}

const Builtin* find_filter(std::string_view name) {
  for (const auto& table : {string_filters(), sequence_filters(), selection_filters(),
                            sorting_filters(), number_filters()}) {
    if (const Builtin* found = find_in(table, name)) return found;
  }
  return nullptr;
}

}  // namespace longshore::text::jinja
