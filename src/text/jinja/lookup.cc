#include <algorithm>
#include <array>

#include "text/jinja/loop.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

std::string described(const Value& object) {
  if (object.none_value()) return "None";
  return fmt::format("{} object", object.type_name());
}

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("'{}' has no attribute '{}'", described(object), name));
}

// Methods that would change their object: the sandbox of transformers hides them.
bool hidden(const Value& object, std::string_view name) {
  static constexpr std::array<std::string_view, 5> kOfDict = {"clear", "pop", "popitem",
                                                              "setdefault", "update"};
  static constexpr std::array<std::string_view, 8> kOfList = {
      "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};
  if (name.starts_with("__")) return true;
  if (object.is(Kind::kDict))
    return std::find(kOfDict.begin(), kOfDict.end(), name) != kOfDict.end();
  if (object.is(Kind::kList))
    return std::find(kOfList.begin(), kOfList.end(), name) != kOfList.end();
  return false;
}

Value neighbour(const Loop& loop, bool next) {
  if (next && loop.index + 1 < loop.items->items.size()) return loop.items->items[loop.index + 1];
  if (!next && loop.index > 0) return loop.items->items[loop.index - 1];
  return Value::undefined(next ? "there is no next item" : "there is no previous item");
}

Value loop_attribute(const Loop& loop, std::string_view name) {
  const auto index = static_cast<int64_t>(loop.index);
  const auto length = static_cast<int64_t>(loop.items->items.size());
  if (name == "index") return Value::integer(index + 1);
  if (name == "index0") return Value::integer(index);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(index + 1 == length);
  if (name == "length") return Value::integer(length);
  if (name == "revindex") return Value::integer(length - index);
  if (name == "revindex0") return Value::integer(length - index - 1);
  if (name == "depth") return Value::integer(loop.level + 1);
  if (name == "depth0") return Value::integer(loop.level);
  if (name == "previtem") return neighbour(loop, false);
  if (name == "nextitem") return neighbour(loop, true);
  return {};
}

Value macro_attribute(const Callable& callable, std::string_view name) {
  if (callable.macro == nullptr) return {};
  const MacroNode& macro = *callable.macro;
  if (name == "name") return Value::string(macro.name);
  if (name == "catch_kwargs") return Value::boolean(macro.uses_kwargs);
  if (name == "catch_varargs") return Value::boolean(macro.uses_varargs);
  if (name == "caller") return Value::boolean(macro.uses_caller);
  if (name != "arguments") return {};
  std::vector<Value> names;
  for (const auto& parameter : macro.parameters) names.push_back(Value::string(parameter.name));
  return Value::tuple(std::move(names));
}

// What Python's getattr finds, or kMissing.
Value python_attribute(const Value& object, std::string_view name) {
  if (object.is(Kind::kLoop)) {
    Value found = loop_attribute(object.as<Loop>(), name);
    if (!found.missing()) return found;
  }
  if (object.is(Kind::kCallable)) return macro_attribute(object.as<Callable>(), name);
  if (object.is(Kind::kNamespace)) {
    const Value* found = object.as<Namespace>().find(name);
    return found != nullptr ? *found : Value();
  }
  if (object.is(Kind::kCycler) && name == "current")
    return object.as<Cycler>().items[object.as<Cycler>().at];
  if (object.is(Kind::kTuple) && object.as_list().group) {
    if (name == "grouper") return object.as_list().items[0];
    if (name == "list") return object.as_list().items[1];
  }
  const Builtin* method = find_method(object, name);
  if (method == nullptr) return {};
  return Value::object(Kind::kCallable, std::make_shared<Callable>(method, object));
}

// What Python's object[key] finds, or kMissing where it raises.
Result<Value> python_item(Runtime& rt, const Value& object, const Value& key) {
  if (object.is(Kind::kDict)) {
    if (!hashable(key)) return Value();
    LS_TRY_VOID(
        rt.charge(key.is_string() ? 1 : static_cast<int64_t>(object.as_dict().entries.size())));
    const Value* found = object.as_dict().find(key);
    return found != nullptr ? *found : Value();
  }
  const bool indexed = object.is_string() || object.is_sequence() || object.is(Kind::kRange);
  if (!indexed || !key.is_integer()) return Value();
  LS_TRY(const int64_t length, rt.length(object));
  int64_t index = key.as_int();
  if (index < 0) index += length;
  if (index < 0 || index >= length) return Value();
  if (object.is(Kind::kRange)) return Value::integer(object.as<Range>().at(index));
  if (object.is_sequence()) return object.as_list().items[static_cast<size_t>(index)];
  const std::string& text = object.as_string();
  size_t end = byte_offset(text, index);
  const size_t begin = end;
  next_code_point(text, end);
  return Value::string(text.substr(begin, end - begin));
}

// One bound of a slice, as Python clips it.
Result<int64_t> slice_bound(const Value& value, int64_t otherwise, int64_t length, bool backward) {
  if (value.missing() || value.none_value()) return otherwise;
  LS_TRY_VOID(refuse_undefined(value));
  if (!value.is_integer()) return raise("slice indices must be integers or None");
  int64_t at = value.as_int();
  if (at < 0) at += length;
  if (at < 0) return backward ? -1 : 0;
  if (at >= length) return backward ? length - 1 : length;
  return at;
}

Result<int64_t> slice_step(const Value& step) {
  if (step.missing() || step.none_value()) return 1;
  LS_TRY_VOID(refuse_undefined(step));
  if (!step.is_integer()) return raise("slice indices must be integers or None");
  if (step.as_int() == 0) return raise("slice step cannot be zero");
  return std::clamp<int64_t>(step.as_int(), -(int64_t{1} << 40), int64_t{1} << 40);
}

Result<Value> pick(Runtime& rt, const Value& object, const std::vector<int64_t>& places) {
  if (object.is_string()) {
    const auto points = split_code_points(object.as_string());
    std::string out;
    for (const int64_t i : places) out += points[static_cast<size_t>(i)];
    return rt.string(std::move(out));
  }
  LS_TRY(const Items items, rt.iterate(object));
  std::vector<Value> out;
  out.reserve(places.size());
  for (const int64_t i : places) out.push_back(items->items[static_cast<size_t>(i)]);
  return object.is(Kind::kTuple) ? rt.tuple(std::move(out)) : rt.list(std::move(out));
}

}  // namespace

Result<Value> attribute(Runtime& rt, const Value& object, std::string_view name) {
  LS_TRY_VOID(refuse_undefined(object));
  if (hidden(object, name)) {
    return Value::undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name,
                                        object.type_name()));
  }
  Value found = python_attribute(object, name);
  if (!found.missing()) return found;
  if (object.is(Kind::kDict)) {
    LS_TRY_VOID(rt.charge(1));
    if (const Value* value = object.as_dict().find(name)) return *value;
  }
  return no_attribute(object, name);
}

Result<Value> item(Runtime& rt, const Value& object, const Value& key) {
  LS_TRY_VOID(refuse_undefined(object));
  LS_TRY(Value found, python_item(rt, object, key));
  if (!found.missing()) return found;
  if (key.is_string()) {
    if (hidden(object, key.as_string())) return attribute(rt, object, key.as_string());
    found = python_attribute(object, key.as_string());
    return found.missing() ? no_attribute(object, key.as_string()) : found;
  }
  std::string text;
  LS_TRY_VOID(append_repr(rt, key, text));
  return Value::undefined(fmt::format("{} has no element {}", described(object), text));
}

Result<Value> slice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
                    const Value& step) {
  LS_TRY_VOID(refuse_undefined(object));
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) {
    return raise("'{}' object is not subscriptable by a slice", object.type_name());
  }
  LS_TRY(const int64_t length, rt.length(object));
  LS_TRY(const int64_t stride, slice_step(step));
  const bool backward = stride < 0;
  LS_TRY(const int64_t from, slice_bound(start, backward ? length - 1 : 0, length, backward));
  LS_TRY(const int64_t to, slice_bound(stop, backward ? -1 : length, length, backward));
  if (object.is_string() && stride == 1) {
    const std::string& text = object.as_string();
    const size_t first = byte_offset(text, from);
    const size_t last = std::max(first, byte_offset(text, to));
    return rt.string(text.substr(first, last - first));
  }
  std::vector<int64_t> places;
  for (int64_t i = from; backward ? i > to : i < to; i += stride) places.push_back(i);
  LS_TRY_VOID(rt.charge(static_cast<int64_t>(places.size())));
  return pick(rt, object, places);
}

}  // namespace longshore::text::jinja
