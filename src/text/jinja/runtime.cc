#include "text/jinja/runtime.h"

#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

constexpr int64_t kBytesPerStep = 16;
constexpr int64_t kStepsPerElement = 2;

Result<void> check_depth(int depth) {
  if (depth > kMaxValueDepth)
    return raise("a value is nested deeper than {} levels: flatten the request", kMaxValueDepth);
  return {};
}

std::vector<std::string_view> parameter_names(std::string_view parameters) {
  std::vector<std::string_view> names;
  while (!parameters.empty()) {
    const size_t comma = std::min(parameters.find(','), parameters.size());
    names.push_back(parameters.substr(0, comma));
    parameters.remove_prefix(std::min(comma + 1, parameters.size()));
  }
  return names;
}

Result<Items> view_items(Runtime& rt, const View& view) {
  std::vector<Value> items;
  items.reserve(view.dict->entries.size());
  for (const auto& [key, value] : view.dict->entries) {
    if (view.part == View::Part::kKeys) {
      items.push_back(key);
    } else if (view.part == View::Part::kValues) {
      items.push_back(value);
    } else {
      LS_TRY(Value pair, rt.tuple({key, value}));
      items.push_back(std::move(pair));
    }
  }
  return std::make_shared<List>(std::move(items));
}

std::vector<Value> range_items(const Range& range) {
  std::vector<Value> items;
  const int64_t count = range.length();
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) items.push_back(Value::integer(range.at(i)));
  return items;
}

std::vector<Value> characters(const std::string& text) {
  std::vector<Value> items;
  for (std::string_view point : split_code_points(text))
    items.push_back(Value::string(std::string(point)));
  return items;
}

}  // namespace

Result<void> Runtime::charge(int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps)
    return raise("the template takes more than {} steps: shorten the messages or simplify it",
                 limits_.steps);
  return {};
}

Result<void> Runtime::charge_bytes(int64_t bytes) {
  if (bytes > limits_.output_bytes) {
    return raise("a text of the template exceeds {} bytes: shorten the messages or simplify it",
                 limits_.output_bytes);
  }
  return charge(bytes / kBytesPerStep + 1);
}

Result<void> Runtime::charge_product(int64_t unit, int64_t times) {
  if (unit > 0 && times > limits_.output_bytes / unit)
    return charge_bytes(limits_.output_bytes + 1);
  return charge_bytes(unit * std::max<int64_t>(times, 0));
}

Result<Value> Runtime::string(std::string text) {
  LS_TRY_VOID(charge_bytes(static_cast<int64_t>(text.size())));
  return Value::string(std::move(text));
}

Result<Value> Runtime::list(std::vector<Value> items) {
  LS_TRY_VOID(charge(static_cast<int64_t>(items.size()) * kStepsPerElement));
  Value value = Value::list(std::move(items));
  LS_TRY_VOID(check_depth(value.depth()));
  return value;
}

Result<Value> Runtime::tuple(std::vector<Value> items) {
  LS_TRY_VOID(charge(static_cast<int64_t>(items.size()) * kStepsPerElement));
  Value value = Value::tuple(std::move(items));
  LS_TRY_VOID(check_depth(value.depth()));
  return value;
}

Result<Value> Runtime::iterator(std::vector<Value> items) {
  LS_TRY(Value value, list(std::move(items)));
  return Value::object(Kind::kIterator, std::make_shared<Iterator>(value.list_pointer()));
}

Result<void> Runtime::dict_set(Dict& dict, Value key, Value value) {
  if (!hashable(key)) return raise("unhashable type: '{}'", key.type_name());
  LS_TRY_VOID(charge(key.is_string() ? 4 : static_cast<int64_t>(dict.entries.size()) + 4));
  dict.set(std::move(key), std::move(value));
  return check_depth(dict.depth);
}

Result<Value> Runtime::dict(std::shared_ptr<Dict> dict) {
  LS_TRY_VOID(check_depth(dict->depth));
  return Value::object(Kind::kDict, std::move(dict));
}

Result<Items> Runtime::iterate(const Value& value) {
  LS_TRY(const int64_t size, value.is(Kind::kIterator) ? Result<int64_t>(0) : length(value));
  LS_TRY_VOID(charge(size / 4));
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      return value.list_pointer();
    case Kind::kString:
      LS_TRY_VOID(charge(size * kStepsPerElement));
      return std::make_shared<List>(characters(value.as_string()));
    case Kind::kDict:
      return view_items(*this, View(value.dict_pointer(), View::Part::kKeys));
    case Kind::kView:
      return view_items(*this, value.as<View>());
    case Kind::kRange:
      return std::make_shared<List>(range_items(value.as<Range>()));
    case Kind::kIterator: {
      auto& iterator = value.as<Iterator>();
      const auto from = iterator.items->items.begin() + static_cast<int64_t>(iterator.at);
      std::vector<Value> rest(from, iterator.items->items.end());
      iterator.at = iterator.items->items.size();
      LS_TRY_VOID(charge(static_cast<int64_t>(rest.size())));
      return std::make_shared<List>(std::move(rest));
    }
    default:
      return std::make_shared<List>(std::vector<Value>{});  // Undefined
  }
}

Result<int64_t> Runtime::length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      LS_TRY_VOID(charge_bytes(static_cast<int64_t>(value.as_string().size())));
      return count_code_points(value.as_string());
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.as_list().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(value.as_dict().entries.size());
    case Kind::kView:
      return static_cast<int64_t>(value.as<View>().dict->entries.size());
    case Kind::kRange:
      return value.as<Range>().length();
    case Kind::kIterator:
      return raise("object of type 'generator' has no len()");
    default:
      return raise("'{}' object is not iterable", value.type_name());
  }
}

Result<Value> call_builtin(Runtime& rt, const Builtin& builtin, Args args) {
  std::vector<std::string_view> names = parameter_names(builtin.parameters);
  const bool variadic = !names.empty() && names.back() == "*";
  if (variadic) names.pop_back();
  Bound bound(names.size());
  Args rest;
  if (args.positional.size() > names.size() && !variadic) {
    return raise("{}() takes at most {} arguments ({} given)", builtin.name, names.size(),
                 args.positional.size());
  }
  for (size_t i = 0; i < args.positional.size(); ++i) {
    (i < names.size() ? bound[i] : rest.positional.emplace_back()) = std::move(args.positional[i]);
  }
  for (auto& [name, value] : args.keyword) {
    const size_t at =
        static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    if (at == names.size() && !variadic) {
      return raise("{}() got an unexpected keyword argument '{}'", builtin.name, name);
    }
    if (at == names.size()) {
      rest.keyword.emplace_back(name, std::move(value));
    } else if (!bound[at].missing()) {
      return raise("{}() got multiple values for argument '{}'", builtin.name, name);
    } else {
      bound[at] = std::move(value);
    }
  }
  for (int i = 0; i < builtin.required; ++i) {
    if (bound[static_cast<size_t>(i)].missing()) {
      return raise("{}() missing required argument '{}'", builtin.name,
                   names[static_cast<size_t>(i)]);
    }
  }
  return builtin.function(rt, bound, rest);
}

}  // namespace longshore::text::jinja
