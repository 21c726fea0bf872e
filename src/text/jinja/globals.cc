// The functions that every template has.
#include <array>
#include <ctime>

#include "text/jinja/arguments.h"
#include "text/jinja/loop.h"

namespace longshore::text::jinja {
namespace {

Result<Value> range(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  const bool one = a[1].missing();
  LS_TRY(const int64_t start, integer_argument(one ? Value() : a[0], 0));
  LS_TRY(const int64_t stop, integer_argument(one ? a[0] : a[1], 0));
  LS_TRY(const int64_t step, integer_argument(a[2], 1));
  if (step == 0) return raise("range() arg 3 must not be zero");
  constexpr int64_t kFar = int64_t{1} << 60;
  if (std::max({std::abs(start / 2), std::abs(stop / 2), std::abs(step / 2)}) > kFar) {
    return raise("a bound of range() is too large");
  }
  auto out = std::make_shared<Range>(start, stop, step);
  if (out->length() > kMaxRange)
    return raise("range too big: it has more than {} elements", kMaxRange);
  return Value::object(Kind::kRange, std::move(out));
}

Result<void> fill(Runtime& rt, const Bound& a, const Args& rest, Dict& out) {
  if (rest.positional.size() > 0) return raise("dict() takes at most 1 positional argument");
  if (a[0].is(Kind::kDict)) {
    for (const auto& [key, value] : a[0].as_dict().entries)
      LS_TRY_VOID(rt.dict_set(out, key, value));
  } else if (!a[0].missing()) {
    LS_TRY(const Items pairs, rt.iterate(a[0]));
    for (const Value& pair : pairs->items) {
      LS_TRY(const Items parts, rt.iterate(pair));
      if (parts->items.size() != 2) return raise("dict() takes pairs");
      LS_TRY_VOID(rt.dict_set(out, parts->items[0], parts->items[1]));
    }
  }
  for (const auto& [name, value] : rest.keyword)
    LS_TRY_VOID(rt.dict_set(out, Value::string(name), value));
  return {};
}

Result<Value> dict(Runtime& rt, Bound& a, Args& rest) {
  auto out = std::make_shared<Dict>();
  LS_TRY_VOID(fill(rt, a, rest, *out));
  return rt.dict(std::move(out));
}

Result<Value> make_namespace(Runtime& rt, Bound& a, Args& rest) {
  Dict values;
  LS_TRY_VOID(fill(rt, a, rest, values));
  auto out = std::make_shared<Namespace>();
  for (const auto& [key, value] : values.entries) {
    if (!key.is_string()) return raise("the names of a namespace must be strings");
    out->values.emplace_back(key.as_string(), value);
  }
  return rt.make_namespace(std::move(out));
}

Result<Value> raise_exception(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string message, to_text(rt, a[0]));
  return fail(ErrorKind::kUsage, "{}", message);
}

Result<Value> strftime_now(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  LS_TRY(const std::string format, string_argument(a[0], ""));
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 4096> buffer{};
  if (format.size() > 256) return raise("the format of strftime_now() is too long");
  const size_t length = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  return Value::string(std::string(buffer.data(), length));
}

Result<Value> cycler(Runtime& rt, Bound& /*a*/, Args& rest) {
  if (rest.positional.empty()) return raise("at least one item has to be provided");
  LS_TRY(const Value items, rt.list(std::move(rest.positional)));
  return Value::object(Kind::kCycler, std::make_shared<Cycler>(items.as_list().items));
}

constexpr Builtin kJoin = {"joiner", "state", 1,
                           [](Runtime& /*rt*/, Bound& a, Args& /*rest*/) -> Result<Value> {
                             auto& state = a[0].as<Cycler>();
                             if (state.at == 0) {
                               state.at = 1;
                               return Value::string("");
                             }
                             return state.items[0];
                           }};

// A callable that gives "" the first time and the separator from then on.
Result<Value> joiner(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Value items, rt.list({a[0].missing() ? Value::string(", ") : a[0]}));
  Value state = Value::object(Kind::kCycler, std::make_shared<Cycler>(items.as_list().items));
  return Value::object(Kind::kCallable, std::make_shared<Callable>(&kJoin, std::move(state)));
}

constexpr Builtin kGlobals[] = {
    {"range", "start,stop,step", 1, range},
    {"dict", "mapping,*", 0, dict},
    {"namespace", "mapping,*", 0, make_namespace},
    {"raise_exception", "message", 1, raise_exception},
    {"strftime_now", "format", 1, strftime_now},
    {"cycler", "*", 0, cycler},
    {"joiner", "sep", 0, joiner},
};

}  // namespace

const Builtin* find_global(std::string_view name) {
  return find_in(kGlobals, name);
}

}  // namespace longshore::text::jinja
