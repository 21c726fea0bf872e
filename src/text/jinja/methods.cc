// The methods of dict, list, tuple, numbers, loop and cycler; none of them changes a value of the
// template.
#include "text/jinja/methods.h"

#include <cmath>

#include "text/jinja/arguments.h"
#include "text/jinja/loop.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

template <View::Part part>
Out view(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return Value::object(Kind::kView, std::make_shared<View>(a[0].dict_pointer(), part));
}

Out get(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (!hashable(a[1])) return raise("unhashable type: '{}'", a[1].type_name());
  LS_TRY_VOID(
      rt.charge(a[1].is_string() ? 1 : static_cast<int64_t>(a[0].as_dict().entries.size())));
  const Value* found = a[0].as_dict().find(a[1]);
  if (found != nullptr) return *found;
  return a[2].missing() ? Value::none() : a[2];
}

Out copy(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return a[0];
}

Out index(Runtime& rt, Bound& a, Args& /*rest*/) {
  const auto& items = a[0].as_list().items;
  for (size_t i = 0; i < items.size(); ++i) {
    LS_TRY(const bool same, equal(rt, items[i], a[1]));
    if (same) return Value::integer(static_cast<int64_t>(i));
  }
  return raise("the value is not in the {}", a[0].type_name());
}

Out count(Runtime& rt, Bound& a, Args& /*rest*/) {
  int64_t times = 0;
  for (const Value& value : a[0].as_list().items) {
    LS_TRY(const bool same, equal(rt, value, a[1]));
    times += same ? 1 : 0;
  }
  return Value::integer(times);
}

Out cycle(Runtime& /*rt*/, Bound& a, Args& rest) {
  if (rest.positional.empty()) return raise("no items for cycling given");
  return rest.positional[a[0].as<Loop>().index % rest.positional.size()];
}

Out changed(Runtime& rt, Bound& a, Args& rest) {
  auto& loop = a[0].as<Loop>();
  LS_TRY(const Value now, rt.tuple(std::move(rest.positional)));
  const bool first = loop.last_seen.empty();
  LS_TRY(const bool same, first ? Result<bool>(false) : equal(rt, loop.last_seen[0], now));
  loop.last_seen = {now};
  return Value::boolean(!same);
}

Out next(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  auto& cycler = a[0].as<Cycler>();
  Value value = cycler.items[cycler.at];
  cycler.at = (cycler.at + 1) % cycler.items.size();
  return value;
}

Out reset(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  a[0].as<Cycler>().at = 0;
  return Value::none();
}

Out float_is_integer(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  const double d = a[0].as_double();
  return Value::boolean(std::isfinite(d) && d == std::floor(d));
}

constexpr Builtin kDict[] = {
    {"items", "self", 1, view<View::Part::kItems>},
    {"keys", "self", 1, view<View::Part::kKeys>},
    {"values", "self", 1, view<View::Part::kValues>},
    {"get", "self,key,default", 2, get},
    {"copy", "self", 1, copy},
};
constexpr Builtin kList[] = {
    {"index", "self,value", 2, index},
    {"count", "self,value", 2, count},
    {"copy", "self", 1, copy},
};
constexpr Builtin kTuple[] = {
    {"index", "self,value", 2, index},
    {"count", "self,value", 2, count},
};
constexpr Builtin kLoop[] = {
    {"cycle", "self,*", 1, cycle},
    {"changed", "self,*", 1, changed},
};
constexpr Builtin kCycler[] = {
    {"next", "self", 1, next},
    {"reset", "self", 1, reset},
};
constexpr Builtin kFloat[] = {
    {"is_integer", "self", 1, float_is_integer},
};

std::span<const Builtin> table_of(Kind kind) {
  switch (kind) {
    case Kind::kString:
      return string_methods();
    case Kind::kDict:
      return kDict;
    case Kind::kList:
      return kList;
    case Kind::kTuple:
      return kTuple;
    case Kind::kLoop:
      return kLoop;
    case Kind::kCycler:
      return kCycler;
    case Kind::kFloat:
      return kFloat;
    default:
      return {};
  }
}

}  // namespace

const Builtin* find_method(const Value& self, std::string_view name) {
  return find_in(table_of(self.kind()), name);
}

}  // namespace longshore::text::jinja
