// The values of a template: Python's types as far as templates see them.
//
// Ownership: values share immutable contents by reference counting. Mutable are only Namespace,
// Iterator, Loop, Cycler and Scope, which belong to one render. Threading: constants of a compiled
// template are shared between threads and are immutable; everything else stays in one render.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace longshore::text::jinja {

enum class Kind : uint8_t {
  kMissing,    // no value at all: an argument that was not given
  kUndefined,  // jinja2's Undefined, with the message of the error that its use causes
  kNone,
  kBool,
  kInt,
  kUint,  // an integer above int64's range; it can be printed and compared, not calculated with
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kView,  // dict.keys(), .values(), .items()
  kRange,
  kIterator,  // a generator: can be consumed once
  kNamespace,
  kCallable,
  kLoop,
  kCycler,
};

// Whatever a value refers to. depth bounds the recursion of destruction, printing and comparison: 0
// for leaves, else 1 + the deepest content.
struct Object {
  explicit Object(int nesting = 0) : depth(nesting) {}
  virtual ~Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  int depth;
};

struct String;
struct List;
struct Dict;
struct View;
struct Range;
struct Iterator;
struct Namespace;
struct Callable;
struct Loop;
struct Cycler;

class Value {
 public:
  Value() = default;
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b);
  static Value integer(int64_t i);
  static Value unsigned_integer(uint64_t u);  // kInt where it fits
  static Value real(double d);
  static Value string(std::string text);
  static Value undefined(std::string message);
  // The depth of a list, tuple or dict is not limited here: see Runtime::list().
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value object(Kind kind, std::shared_ptr<Object> object);

  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] bool is(Kind kind) const { return kind_ == kind; }
  [[nodiscard]] bool missing() const { return kind_ == Kind::kMissing; }
  [[nodiscard]] bool undefined() const { return kind_ == Kind::kUndefined; }
  [[nodiscard]] bool none_value() const { return kind_ == Kind::kNone; }
  [[nodiscard]] bool is_string() const { return kind_ == Kind::kString; }
  [[nodiscard]] bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  // Python's int, of which bool is a part.
  [[nodiscard]] bool is_integer() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  [[nodiscard]] bool is_number() const {
    return is_integer() || kind_ == Kind::kFloat || kind_ == Kind::kUint;
  }

  // The caller has asked for the kind first.
  [[nodiscard]] bool as_bool() const { return bits_.b; }
  [[nodiscard]] int64_t as_int() const {
    return kind_ == Kind::kBool ? (bits_.b ? 1 : 0) : bits_.i;
  }
  [[nodiscard]] uint64_t as_uint() const { return bits_.u; }
  [[nodiscard]] double as_double() const;  // of any number
  [[nodiscard]] const std::string& as_string() const;
  [[nodiscard]] const std::string& undefined_message() const;
  [[nodiscard]] const List& as_list() const;  // kList or kTuple
  [[nodiscard]] std::shared_ptr<const List> list_pointer() const;
  [[nodiscard]] const Dict& as_dict() const;
  [[nodiscard]] std::shared_ptr<const Dict> dict_pointer() const;
  template <typename T>
  [[nodiscard]] T& as() const {
    return *static_cast<T*>(object_.get());
  }
  template <typename T>
  [[nodiscard]] std::shared_ptr<T> pointer() const {
    return std::static_pointer_cast<T>(object_);
  }
  [[nodiscard]] const Object* identity() const { return object_.get(); }

  [[nodiscard]] int depth() const { return object_ ? object_->depth : 0; }
  [[nodiscard]] bool truthy() const;
  // The type as Python names it: "int", "str", "NoneType".
  [[nodiscard]] std::string_view type_name() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::kMissing;
  union Bits {
    bool b;
    int64_t i;
    uint64_t u;
    double d;
  } bits_{.i = 0};
  std::shared_ptr<Object> object_;
};

struct String : Object {
  explicit String(std::string t) : text(std::move(t)) {}
  std::string text;  // an Undefined's message, for kUndefined
};

struct List : Object {
  explicit List(std::vector<Value> values);
  std::vector<Value> items;
  bool group = false;  // a result of the groupby filter: its members also have names
};
using Items = std::shared_ptr<const List>;

// In insertion order. Keys are None, bool, int, float, str or flat tuples of these; others never
// get in.
struct Dict : Object {
  using Entry = std::pair<Value, Value>;
  std::vector<Entry> entries;

  [[nodiscard]] const Value* find(const Value& key) const;
  [[nodiscard]] const Value* find(std::string_view key) const;
  void set(Value key, Value value);  // replaces the value of an equal key; updates depth

 private:
  [[nodiscard]] int64_t position(const Value& key) const;
  [[nodiscard]] int64_t position(std::string_view key) const;
  std::unordered_map<std::string, size_t> index_;  // of string keys
};

struct View : Object {
  enum class Part : uint8_t { kKeys, kValues, kItems };
  View(std::shared_ptr<const Dict> d, Part p) : Object(d->depth + 1), dict(std::move(d)), part(p) {}
  std::shared_ptr<const Dict> dict;
  Part part;
};

struct Range : Object {
  Range(int64_t a, int64_t b, int64_t s) : start(a), stop(b), step(s) {}
  [[nodiscard]] int64_t length() const;
  [[nodiscard]] int64_t at(int64_t i) const { return start + i * step; }
  int64_t start;
  int64_t stop;
  int64_t step;
};

struct Iterator : Object {
  explicit Iterator(Items values) : Object(values->depth), items(std::move(values)) {}
  Items items;
  size_t at = 0;
};

struct Namespace : Object {
  std::vector<std::pair<std::string, Value>> values;
  [[nodiscard]] const Value* find(std::string_view name) const;
  void set(std::string_view name, Value value);
};

struct Cycler : Object {
  explicit Cycler(std::vector<Value> values);
  std::vector<Value> items;
  size_t at = 0;
};

// Whether two hashable keys are equal: by value across bool, int and float, as in Python.
[[nodiscard]] bool same_key(const Value& a, const Value& b);
[[nodiscard]] bool hashable(const Value& key);

}  // namespace longshore::text::jinja
