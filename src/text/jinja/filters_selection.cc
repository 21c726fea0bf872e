// Filters that look at every element: map, select and their kin.
#include <utility>

#include "text/jinja/filters.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

Value take_keyword(Args& args, std::string_view name) {
  for (auto it = args.keyword.begin(); it != args.keyword.end(); ++it) {
    if (it->first == name) {
      Value value = std::move(it->second);
      args.keyword.erase(it);
      return value;
    }
  }
  return {};
}

// Calls the filter or test on subject with the further arguments that map() or select() got.
Out call_with(Runtime& rt, const Builtin& builtin, const Value& subject, const Args& rest) {
  LS_TRY_VOID(rt.charge(1 + static_cast<int64_t>(rest.positional.size() + rest.keyword.size())));
  Args args;
  args.positional.push_back(subject);
  args.positional.insert(args.positional.end(), rest.positional.begin(), rest.positional.end());
  args.keyword = rest.keyword;
  return call_builtin(rt, builtin, std::move(args));
}

Result<std::string> take_name(Runtime& rt, Args& rest, std::string_view what) {
  if (rest.positional.empty()) return raise("a {} is required", what);
  LS_TRY(std::string name, to_text(rt, rest.positional[0]));
  rest.positional.erase(rest.positional.begin());
  return name;
}

Out map_attribute(Runtime& rt, const Items& items, Args& rest) {
  const Value path = take_keyword(rest, "attribute");
  const Value otherwise = take_keyword(rest, "default");
  if (!rest.keyword.empty())
    return raise("unexpected keyword argument '{}'", rest.keyword[0].first);
  std::vector<Value> out;
  for (const Value& element : items->items) {
    LS_TRY(Value value, attribute_path(rt, element, path, otherwise));
    out.push_back(std::move(value));
  }
  return rt.iterator(std::move(out));
}

// As in jinja2, whatever is false counts as empty, also what has no elements at all.
Result<Items> elements(Runtime& rt, const Value& value) {
  if (!value.truthy()) return std::make_shared<List>(std::vector<Value>{});
  return rt.iterate(value);
}

Out map(Runtime& rt, Bound& a, Args& rest) {
  LS_TRY(const Items items, elements(rt, a[0]));
  const bool by_attribute = rest.positional.empty() && !rest.keyword.empty() &&
                            std::any_of(rest.keyword.begin(), rest.keyword.end(),
                                        [](const auto& k) { return k.first == "attribute"; });
  if (by_attribute) return map_attribute(rt, items, rest);
  LS_TRY(const std::string name, take_name(rt, rest, "filter name"));
  const Builtin* filter = find_filter(name);
  if (filter == nullptr) return raise("no filter named '{}'", name);
  std::vector<Value> out;
  for (const Value& element : items->items) {
    LS_TRY(Value value, call_with(rt, *filter, element, rest));
    out.push_back(std::move(value));
  }
  return rt.iterator(std::move(out));
}

// The elements for which the test (or their truth) gives `wanted`.
Out choose(Runtime& rt, Bound& a, Args& rest, bool by_attribute, bool wanted) {
  LS_TRY(const Items items, elements(rt, a[0]));
  Value path;
  if (by_attribute) {
    if (rest.positional.empty()) return raise("Missing parameter for attribute name");
    path = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  const Builtin* test = nullptr;
  if (!rest.positional.empty()) {
    LS_TRY(const std::string name, take_name(rt, rest, "test name"));
    test = find_test(name);
    if (test == nullptr) return raise("no test named '{}'", name);
  }
  std::vector<Value> out;
  for (const Value& element : items->items) {
    Value subject = element;
    if (by_attribute) {
      LS_TRY(subject, attribute_path(rt, element, path));
    }
    if (test != nullptr) {
      LS_TRY(subject, call_with(rt, *test, subject, rest));
    }
    if (subject.truthy() == wanted) out.push_back(element);
  }
  return rt.iterator(std::move(out));
}

template <bool by_attribute, bool wanted>
Out chosen(Runtime& rt, Bound& a, Args& rest) {
  return choose(rt, a, rest, by_attribute, wanted);
}

constexpr Builtin kFilters[] = {
    {"map", "value,*", 1, map},
    {"select", "value,*", 1, chosen<false, true>},
    {"reject", "value,*", 1, chosen<false, false>},
    {"selectattr", "value,*", 1, chosen<true, true>},
    {"rejectattr", "value,*", 1, chosen<true, false>},
};

}  // namespace

std::span<const Builtin> selection_filters() {
  return kFilters;
}

}  // namespace longshore::text::jinja
