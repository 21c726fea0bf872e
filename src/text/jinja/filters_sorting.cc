// Filters that order elements or find equal ones.
#include <algorithm>
#include <numeric>

#include "text/jinja/filters.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

bool given(const Value& value) {
  return !value.missing() && !value.none_value();
}

// The key of an element: of the path "a,b" a list of both.
Out element_key(Runtime& rt, const Value& element, const Value& path, bool case_sensitive) {
  if (!given(path)) return fold_case(element, case_sensitive);
  if (!path.is_string() || path.as_string().find(',') == std::string::npos) {
    LS_TRY(const Value value, attribute_path(rt, element, path));
    return fold_case(value, case_sensitive);
  }
  std::vector<Value> keys;
  std::string_view left = path.as_string();
  while (true) {
    const size_t comma = left.find(',');
    LS_TRY(const Value value,
           attribute_path(rt, element, Value::string(std::string(left.substr(0, comma)))));
    keys.push_back(fold_case(value, case_sensitive));
    if (comma == std::string_view::npos) break;
    left.remove_prefix(comma + 1);
  }
  return rt.list(std::move(keys));
}

Result<std::vector<Value>> sort_keys(Runtime& rt, const std::vector<Value>& items,
                                     const Value& path, bool sensitive) {
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& element : items) {
    LS_TRY(Value key, element_key(rt, element, path, sensitive));
    keys.push_back(std::move(key));
  }
  return keys;
}

LessThan python_order(Runtime& rt) {
  return [&rt](const Value& a, const Value& b) { return less(rt, a, b); };
}

Out sort(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  std::vector<Value> out = items->items;
  LS_TRY(auto keys, sort_keys(rt, out, a[3], flag_argument(a[2], false)));
  // jinja2 compares lists of keys, in which equal values need no order: absent attributes all sort
  // the same.
  for (Value& key : keys) {
    LS_TRY(key, rt.list({key}));
  }
  LS_TRY_VOID(sort_by(out, keys, flag_argument(a[1], false), python_order(rt)));
  return rt.list(std::move(out));
}

Out dictsort(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (!a[0].is(Kind::kDict)) return raise("'{}' has no items to sort", a[0].type_name());
  LS_TRY(const std::string by, string_argument(a[2], "key"));
  if (by != "key" && by != "value")
    return raise("You can only sort by either \"key\" or \"value\"");
  std::vector<Value> pairs;
  for (const auto& [key, value] : a[0].as_dict().entries) {
    LS_TRY(Value pair, rt.tuple({key, value}));
    pairs.push_back(std::move(pair));
  }
  LS_TRY(const auto keys,
         sort_keys(rt, pairs, Value::integer(by == "key" ? 0 : 1), flag_argument(a[1], false)));
  LS_TRY_VOID(sort_by(pairs, keys, flag_argument(a[3], false), python_order(rt)));
  return rt.list(std::move(pairs));
}

Out extreme(Runtime& rt, Bound& a, bool largest) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  if (items->items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  LS_TRY(const auto keys, sort_keys(rt, items->items, a[2], flag_argument(a[1], false)));
  size_t best = 0;
  for (size_t i = 1; i < keys.size(); ++i) {
    LS_TRY(const bool better,
           largest ? less(rt, keys[best], keys[i]) : less(rt, keys[i], keys[best]));
    if (better) best = i;
  }
  return items->items[best];
}
Out smallest(Runtime& rt, Bound& a, Args& /*rest*/) {
  return extreme(rt, a, false);
}
Out largest(Runtime& rt, Bound& a, Args& /*rest*/) {
  return extreme(rt, a, true);
}

Out unique(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  LS_TRY(const auto keys, sort_keys(rt, items->items, a[2], flag_argument(a[1], false)));
  Dict seen;
  std::vector<Value> out;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (hashable(keys[i]) && seen.find(keys[i]) != nullptr) {
      LS_TRY_VOID(rt.charge(static_cast<int64_t>(keys[i].is_string() ? 1 : seen.entries.size())));
      continue;
    }
    LS_TRY_VOID(rt.dict_set(seen, keys[i], Value::none()));
    out.push_back(items->items[i]);
  }
  return rt.iterator(std::move(out));
}

Out make_group(Runtime& rt, const Value& grouper, std::vector<Value> members) {
  LS_TRY(Value list, rt.list(std::move(members)));
  LS_TRY(const Value pair, rt.tuple({grouper, std::move(list)}));
  pair.as<List>().group = true;
  return pair;
}

Out groupby(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Items items, rt.iterate(a[0]));
  const bool sensitive = flag_argument(a[3], false);
  std::vector<Value> plain;  // the groupers as the elements have them
  std::vector<Value> keys;
  for (const Value& element : items->items) {
    LS_TRY(Value key, attribute_path(rt, element, a[1], given(a[2]) ? a[2] : Value()));
    keys.push_back(fold_case(key, sensitive));
    plain.push_back(std::move(key));
  }
  std::vector<Value> order;
  for (size_t i = 0; i < keys.size(); ++i) order.push_back(Value::integer(static_cast<int64_t>(i)));
  LS_TRY_VOID(sort_by(order, keys, false, python_order(rt)));
  std::vector<Value> out;
  for (size_t i = 0; i < order.size();) {
    const auto first = static_cast<size_t>(order[i].as_int());
    std::vector<Value> members;
    for (; i < order.size(); ++i) {
      const auto at = static_cast<size_t>(order[i].as_int());
      LS_TRY(const bool same, equal(rt, keys[first], keys[at]));
      if (!same) break;
      members.push_back(items->items[at]);
    }
    LS_TRY(Value group, make_group(rt, plain[first], std::move(members)));
    out.push_back(std::move(group));
  }
  return rt.list(std::move(out));
}

constexpr Builtin kFilters[] = {
    {"sort", "value,reverse,case_sensitive,attribute", 1, sort},
    {"dictsort", "value,case_sensitive,by,reverse", 1, dictsort},
    {"min", "value,case_sensitive,attribute", 1, smallest},
    {"max", "value,case_sensitive,attribute", 1, largest},
    {"unique", "value,case_sensitive,attribute", 1, unique},
    {"groupby", "value,attribute,default,case_sensitive", 2, groupby},
};

Result<void> merge_runs(std::vector<size_t>& order, std::vector<size_t>& spare, size_t first,
                        size_t middle, size_t last,
                        const std::function<Result<bool>(size_t, size_t)>& before) {
  size_t left = first;
  size_t right = middle;
  for (size_t out = first; out < last; ++out) {
    bool take_right = left == middle;
    if (!take_right && right < last) {
      LS_TRY(take_right, before(order[right], order[left]));
    }
    spare[out] = take_right ? order[right++] : order[left++];
  }
  return {};
}

}  // namespace

std::span<const Builtin> sorting_filters() {
  return kFilters;
}

Result<void> sort_by(std::vector<Value>& items, const std::vector<Value>& keys, bool reverse,
                     const LessThan& less_than) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<size_t> spare(items.size());
  const auto before = [&](size_t a, size_t b) {
    return reverse ? less_than(keys[b], keys[a]) : less_than(keys[a], keys[b]);
  };
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t first = 0; first < order.size(); first += 2 * width) {
      const size_t middle = std::min(first + width, order.size());
      const size_t last = std::min(first + 2 * width, order.size());
      LS_TRY_VOID(merge_runs(order, spare, first, middle, last, before));
    }
    order.swap(spare);
  }
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t i : order) sorted.push_back(items[i]);
  items = std::move(sorted);
  return {};
}

}  // namespace longshore::text::jinja
