// What filters, tests, methods and operators need from the running template: bounds, containers,
// calls.
//
// Every operation whose cost depends on its operands charges for it here, so that no template runs
// or grows without end. Threading: one Runtime per render.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/jinja/value.h"

namespace longshore::text::jinja {

// Bounds of one render. A step is about one evaluated expression, or 16 bytes of made text.
struct Limits {
  int64_t steps = 32'000'000;
  int64_t output_bytes = int64_t{64} << 20;  // of the output, and of any one string
  int depth = 600;                           // nested evaluations, macro calls included
};

inline constexpr int kMaxValueDepth = 120;     // lists in lists
inline constexpr int64_t kMaxRange = 100'000;  // jinja2's sandbox has the same

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// `return raise("...")`: a template's error; the interpreter adds file and line.
template <typename... T>
[[nodiscard]] tl::unexpected<Error> raise(fmt::format_string<T...> format, T&&... args) {
  return fail(ErrorKind::kModel, format, std::forward<T>(args)...);
}

class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}
  virtual ~Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  [[nodiscard]] Result<void> charge(int64_t steps);
  // For text of so many bytes: it must be allowed to exist.
  [[nodiscard]] Result<void> charge_bytes(int64_t bytes);
  // charge_bytes(unit * times) that cannot overflow.
  [[nodiscard]] Result<void> charge_product(int64_t unit, int64_t times);

  [[nodiscard]] Result<Value> string(std::string text);
  [[nodiscard]] Result<Value> list(std::vector<Value> items);
  [[nodiscard]] Result<Value> tuple(std::vector<Value> items);
  [[nodiscard]] Result<Value> iterator(std::vector<Value> items);
  [[nodiscard]] Result<void> dict_set(Dict& dict, Value key, Value value);
  [[nodiscard]] Result<Value> dict(std::shared_ptr<Dict> dict);

  // The elements that a `for` over the value sees; an iterator is consumed.
  [[nodiscard]] Result<Items> iterate(const Value& value);
  [[nodiscard]] Result<int64_t> length(const Value& value);

  [[nodiscard]] virtual Result<Value> call(const Value& callee, Args args) = 0;
  // Namespaces can refer to themselves: the render empties them at its end.
  virtual Value make_namespace(std::shared_ptr<Namespace> space) = 0;

  [[nodiscard]] const Limits& limits() const { return limits_; }
  [[nodiscard]] int64_t steps_used() const { return steps_; }

 private:
  Limits limits_;
  int64_t steps_ = 0;
};

// A function of C++ that a template can call: filter, test, method or global.
using Bound = std::vector<Value>;  // one per parameter; kMissing where not given
struct Builtin {
  std::string_view name;
  // Comma-separated parameter names; the first `required` must be given. A final "*" takes any
  // further arguments.
  std::string_view parameters;
  int required;
  Result<Value> (*function)(Runtime& rt, Bound& a, Args& rest);
};

// Distributes args over the builtin's parameters and calls it.
[[nodiscard]] Result<Value> call_builtin(Runtime& rt, const Builtin& builtin, Args args);

struct Scope;
struct MacroNode;

struct Callable : Object {
  Callable() = default;
  Callable(const Builtin* b, Value s) : Object(s.depth() + 1), builtin(b), self(std::move(s)) {}
  const Builtin* builtin = nullptr;
  Value self;                        // of a bound method, else missing
  const MacroNode* macro = nullptr;  // else a macro, with the scope around its definition
  std::shared_ptr<Scope> scope;
};

[[nodiscard]] const Builtin* find_filter(std::string_view name);
[[nodiscard]] const Builtin* find_test(std::string_view name);
[[nodiscard]] const Builtin* find_global(std::string_view name);
[[nodiscard]] const Builtin* find_method(const Value& self, std::string_view name);

}  // namespace longshore::text::jinja
