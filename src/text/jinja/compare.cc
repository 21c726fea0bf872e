#include <algorithm>

#include "text/jinja/operators.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

Result<bool> equal_items(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    LS_TRY(const bool same, equal(rt, a[i], b[i]));
    if (!same) return false;
  }
  return true;
}

Result<bool> equal_dicts(Runtime& rt, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    LS_TRY_VOID(rt.charge(key.is_string() ? 1 : static_cast<int64_t>(b.entries.size())));
    const Value* other = b.find(key);
    if (other == nullptr) return false;
    LS_TRY(const bool same, equal(rt, value, *other));
    if (!same) return false;
  }
  return true;
}

Result<bool> less_items(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    LS_TRY(const bool same, equal(rt, a[i], b[i]));
    if (!same) return less(rt, a[i], b[i]);
  }
  return a.size() < b.size();
}

bool numbers_equal(const Value& a, const Value& b) {
  return same_key(a, b);
}

bool numbers_less(const Value& a, const Value& b) {
  if (a.is(Kind::kUint) && b.is(Kind::kUint)) return a.as_uint() < b.as_uint();
  if (a.is_integer() && b.is_integer()) return a.as_int() < b.as_int();
  return a.as_double() < b.as_double();
}

bool orderable(const Value& a, const Value& b) {
  return (a.is_number() && b.is_number()) ||
         (a.kind() == b.kind() && (a.is_string() || a.is_sequence()));
}

Result<bool> contains_text(Runtime& rt, const Value& container, const Value& item) {
  LS_TRY_VOID(refuse_undefined(item));
  if (!item.is_string()) {
    return raise("'in <string>' requires string as left operand, not {}", item.type_name());
  }
  LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(container.as_string().size())));
  return find_text(container.as_string(), item.as_string()) != std::string::npos;
}

}  // namespace

Result<bool> equal(Runtime& rt, const Value& a, const Value& b) {
  LS_TRY_VOID(rt.charge(1));
  if (a.is_number() && b.is_number()) return numbers_equal(a, b);
  if (a.kind() != b.kind()) return false;
  if (a.identity() != nullptr && a.identity() == b.identity()) return true;
  switch (a.kind()) {
    case Kind::kString:
      LS_TRY_VOID(rt.charge_bytes(
          static_cast<int64_t>(std::min(a.as_string().size(), b.as_string().size()))));
      return a.as_string() == b.as_string();
    case Kind::kList:
    case Kind::kTuple:
      return equal_items(rt, a.as_list().items, b.as_list().items);
    case Kind::kDict:
      return equal_dicts(rt, a.as_dict(), b.as_dict());
    case Kind::kRange: {
      LS_TRY(const Items left, rt.iterate(a));
      LS_TRY(const Items right, rt.iterate(b));
      return equal_items(rt, left->items, right->items);
    }
    default:
      return same_key(a, b);
  }
}

Result<bool> less(Runtime& rt, const Value& a, const Value& b) {
  LS_TRY_VOID(rt.charge(1));
  LS_TRY_VOID(refuse_undefined(a));
  LS_TRY_VOID(refuse_undefined(b));
  if (!orderable(a, b)) {
    return raise("'<' not supported between instances of '{}' and '{}'", a.type_name(),
                 b.type_name());
  }
  if (a.is_number()) return numbers_less(a, b);
  if (a.is_string()) {
    LS_TRY_VOID(rt.charge_bytes(
        static_cast<int64_t>(std::min(a.as_string().size(), b.as_string().size()))));
    return a.as_string() < b.as_string();
  }
  return less_items(rt, a.as_list().items, b.as_list().items);
}

Result<bool> contains(Runtime& rt, const Value& container, const Value& item) {
  if (container.is_string()) return contains_text(rt, container, item);
  if (container.is(Kind::kDict)) {
    if (!hashable(item)) return raise("unhashable type: '{}'", item.type_name());
    LS_TRY_VOID(
        rt.charge(item.is_string() ? 1 : static_cast<int64_t>(container.as_dict().entries.size())));
    return container.as_dict().find(item) != nullptr;
  }
  LS_TRY(const Items items, rt.iterate(container));
  for (const Value& have : items->items) {
    LS_TRY(const bool same, equal(rt, have, item));
    if (same) return true;
  }
  return false;
}

Result<bool> compare(Runtime& rt, Comparison op, const Value& a, const Value& b) {
  switch (op) {
    case Comparison::kEqual:
      return equal(rt, a, b);
    case Comparison::kNotEqual:
      return equal(rt, a, b).map([](bool same) { return !same; });
    case Comparison::kLess:
      return less(rt, a, b);
    case Comparison::kGreater:
      return less(rt, b, a);
    case Comparison::kLessEqual:
    case Comparison::kGreaterEqual: {
      const bool swapped = op == Comparison::kGreaterEqual;
      LS_TRY(const bool smaller, swapped ? less(rt, b, a) : less(rt, a, b));
      if (smaller) return true;
      return equal(rt, a, b);
    }
    case Comparison::kIn:
      return contains(rt, b, a);
    case Comparison::kNotIn:
      return contains(rt, b, a).map([](bool found) { return !found; });
  }
  return false;
}

}  // namespace longshore::text::jinja
