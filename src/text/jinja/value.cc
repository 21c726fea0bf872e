#include "text/jinja/value.h"

#include <algorithm>
#include <limits>

namespace longshore::text::jinja {
namespace {

constexpr size_t kIndexFrom = 8;  // dicts below this size are searched from the front

int deepest(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

}  // namespace

Value Value::boolean(bool b) {
  Value value(Kind::kBool);
  value.bits_.i = 0;
  value.bits_.b = b;
  return value;
}

Value Value::integer(int64_t i) {
  Value value(Kind::kInt);
  value.bits_.i = i;
  return value;
}

Value Value::unsigned_integer(uint64_t u) {
  if (u <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return integer(static_cast<int64_t>(u));
  }
  Value value(Kind::kUint);
  value.bits_.u = u;
  return value;
}

Value Value::real(double d) {
  Value value(Kind::kFloat);
  value.bits_.d = d;
  return value;
}

Value Value::string(std::string text) {
  return object(Kind::kString, std::make_shared<String>(std::move(text)));
}

Value Value::undefined(std::string message) {
  return object(Kind::kUndefined, std::make_shared<String>(std::move(message)));
}

Value Value::list(std::vector<Value> items) {
  return object(Kind::kList, std::make_shared<List>(std::move(items)));
}

Value Value::tuple(std::vector<Value> items) {
  return object(Kind::kTuple, std::make_shared<List>(std::move(items)));
}

Value Value::object(Kind kind, std::shared_ptr<Object> object) {
  Value value(kind);
  value.object_ = std::move(object);
  return value;
}

double Value::as_double() const {
  if (kind_ == Kind::kFloat) return bits_.d;
  if (kind_ == Kind::kUint) return static_cast<double>(bits_.u);
  return static_cast<double>(as_int());
}

const std::string& Value::as_string() const {
  return as<String>().text;
}
const std::string& Value::undefined_message() const {
  return as<String>().text;
}
const List& Value::as_list() const {
  return as<List>();
}
std::shared_ptr<const List> Value::list_pointer() const {
  return pointer<List>();
}
const Dict& Value::as_dict() const {
  return as<Dict>();
}
std::shared_ptr<const Dict> Value::dict_pointer() const {
  return pointer<Dict>();
}

bool Value::truthy() const {
  switch (kind_) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return bits_.b;
    case Kind::kInt:
      return bits_.i != 0;
    case Kind::kFloat:
      return bits_.d != 0;
    case Kind::kString:
      return !as_string().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !as_list().items.empty();
    case Kind::kDict:
      return !as_dict().entries.empty();
    case Kind::kView:
      return !as<View>().dict->entries.empty();
    case Kind::kRange:
      return as<Range>().length() != 0;
    default:
      return true;
  }
}

std::string_view Value::type_name() const {
  switch (kind_) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kUint:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kView:
      return "dict view";
    case Kind::kRange:
      return "range";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "jinja2.utils.Namespace";
    case Kind::kCallable:
      return "function";
    case Kind::kLoop:
      return "jinja2.runtime.LoopContext";
    case Kind::kCycler:
      return "jinja2.utils.Cycler";
  }
  return "object";
}

List::List(std::vector<Value> values) : Object(deepest(values)), items(std::move(values)) {}

Cycler::Cycler(std::vector<Value> values) : Object(deepest(values)), items(std::move(values)) {}

const Value* Dict::find(const Value& key) const {
  const int64_t at = position(key);
  return at < 0 ? nullptr : &entries[static_cast<size_t>(at)].second;
}

const Value* Dict::find(std::string_view key) const {
  const int64_t at = position(key);
  return at < 0 ? nullptr : &entries[static_cast<size_t>(at)].second;
}

void Dict::set(Value key, Value value) {
  depth = std::max({depth, key.depth() + 1, value.depth() + 1});
  if (const int64_t at = position(key); at >= 0) {
    entries[static_cast<size_t>(at)].second = std::move(value);
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() < kIndexFrom) return;
  const size_t first = index_.empty() ? 0 : entries.size() - 1;
  for (size_t i = first; i < entries.size(); ++i) {
    if (entries[i].first.is_string()) index_.emplace(entries[i].first.as_string(), i);
  }
}

int64_t Dict::position(const Value& key) const {
  if (key.is_string()) return position(std::string_view(key.as_string()));
  for (size_t i = 0; i < entries.size(); ++i) {
    if (same_key(entries[i].first, key)) return static_cast<int64_t>(i);
  }
  return -1;
}

int64_t Dict::position(std::string_view key) const {
  if (!index_.empty()) {
    auto it = index_.find(std::string(key));
    return it == index_.end() ? -1 : static_cast<int64_t>(it->second);
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    const Value& have = entries[i].first;
    if (have.is_string() && have.as_string() == key) return static_cast<int64_t>(i);
  }
  return -1;
}

int64_t Range::length() const {
  if (step > 0) return stop > start ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

const Value* Namespace::find(std::string_view name) const {
  for (const auto& [key, value] : values) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::set(std::string_view name, Value value) {
  for (auto& [key, old] : values) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  values.emplace_back(std::string(name), std::move(value));
}

bool hashable(const Value& key) {
  switch (key.kind()) {
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kMissing:
      return false;
    case Kind::kTuple:
      // Nested tuples are left out: comparing them is not bounded by their size.
      return key.depth() == 1 &&
             std::all_of(key.as_list().items.begin(), key.as_list().items.end(), hashable);
    default:
      return true;
  }
}

bool same_key(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::kUint) && b.is(Kind::kUint)) return a.as_uint() == b.as_uint();
    if (a.is_integer() && b.is_integer()) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone:
    case Kind::kUndefined:
      return true;
    case Kind::kString:
      return a.as_string() == b.as_string();
    case Kind::kTuple:
      return std::equal(a.as_list().items.begin(), a.as_list().items.end(),
                        b.as_list().items.begin(), b.as_list().items.end(), same_key);
    default:
      return a.identity() == b.identity();
  }
}

}  // namespace longshore::text::jinja
