// The tests after `is`.
#include "text/jinja/arguments.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

using Answer = Result<Value>;

Value answer(bool b) {
  return Value::boolean(b);
}

template <Kind kind>
Answer is_kind(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is(kind));
}

template <bool wanted>
Answer is_constant(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is(Kind::kBool) && a[0].as_bool() == wanted);
}

template <Comparison op>
Answer compares(Runtime& rt, Bound& a, Args& /*rest*/) {
  return compare(rt, op, a[0], a[1]).map(answer);
}

Answer is_defined(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(!a[0].undefined());
}

Answer is_number(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is_number());
}

Answer is_integer(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is(Kind::kInt) || a[0].is(Kind::kUint));
}

bool iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kView:
    case Kind::kRange:
    case Kind::kIterator:
    case Kind::kLoop:
    case Kind::kCycler:
      return true;
    default:
      return false;
  }
}

Answer is_iterable(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(iterable(a[0]));
}

Answer is_sequence(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  const Kind kind = a[0].kind();
  return answer(kind == Kind::kString || kind == Kind::kList || kind == Kind::kTuple ||
                kind == Kind::kDict || kind == Kind::kRange || kind == Kind::kUndefined);
}

Answer is_callable(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is(Kind::kCallable) || a[0].is(Kind::kLoop) || a[0].undefined());
}

Answer parity(Runtime& rt, Bound& a, bool odd) {
  LS_TRY(const Value rest, arithmetic(rt, Op::kModulo, a[0], Value::integer(2)));
  return answer(rest.is_number() && rest.as_double() == (odd ? 1 : 0));
}
Answer is_odd(Runtime& rt, Bound& a, Args& /*rest*/) {
  return parity(rt, a, true);
}
Answer is_even(Runtime& rt, Bound& a, Args& /*rest*/) {
  return parity(rt, a, false);
}

Answer is_divisible(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY(const Value rest, arithmetic(rt, Op::kModulo, a[0], a[1]));
  return answer(rest.is_number() && rest.as_double() == 0);
}

Answer is_same(Runtime& rt, Bound& a, Args& /*rest*/) {
  if (a[0].kind() != a[1].kind()) return answer(false);
  if (a[0].is_string() || a[0].identity() == nullptr) return equal(rt, a[0], a[1]).map(answer);
  return answer(a[0].identity() == a[1].identity());
}

Answer has_case(Runtime& rt, const Value& value, bool upper) {
  LS_TRY(const std::string text, to_text(rt, value));
  bool cased = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code_point(text, at);
    if (upper ? is_lower(code) && !is_upper(code) : is_upper(code) && !is_lower(code))
      return answer(false);
    cased |= is_cased(code);
  }
  return answer(cased);
}
Answer is_upper_text(Runtime& rt, Bound& a, Args& /*rest*/) {
  return has_case(rt, a[0], true);
}
Answer is_lower_text(Runtime& rt, Bound& a, Args& /*rest*/) {
  return has_case(rt, a[0], false);
}

Answer is_filter(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is_string() && find_filter(a[0].as_string()) != nullptr);
}
Answer is_test(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  return answer(a[0].is_string() && find_test(a[0].as_string()) != nullptr);
}
Answer is_escaped(Runtime& /*rt*/, Bound& /*a*/, Args& /*rest*/) {
  return answer(false);
}

constexpr Builtin kTests[] = {
    {"defined", "value", 1, is_defined},
    {"undefined", "value", 1, is_kind<Kind::kUndefined>},
    {"none", "value", 1, is_kind<Kind::kNone>},
    {"boolean", "value", 1, is_kind<Kind::kBool>},
    {"true", "value", 1, is_constant<true>},
    {"false", "value", 1, is_constant<false>},
    {"integer", "value", 1, is_integer},
    {"float", "value", 1, is_kind<Kind::kFloat>},
    {"number", "value", 1, is_number},
    {"string", "value", 1, is_kind<Kind::kString>},
    {"mapping", "value", 1, is_kind<Kind::kDict>},
    {"iterable", "value", 1, is_iterable},
    {"sequence", "value", 1, is_sequence},
    {"callable", "value", 1, is_callable},
    {"sameas", "value,other", 2, is_same},
    {"odd", "value", 1, is_odd},
    {"even", "value", 1, is_even},
    {"divisibleby", "value,num", 2, is_divisible},
    {"upper", "value", 1, is_upper_text},
    {"lower", "value", 1, is_lower_text},
    {"in", "value,seq", 2, compares<Comparison::kIn>},
    {"eq", "a,b", 2, compares<Comparison::kEqual>},
    {"==", "a,b", 2, compares<Comparison::kEqual>},
    {"equalto", "a,b", 2, compares<Comparison::kEqual>},
    {"ne", "a,b", 2, compares<Comparison::kNotEqual>},
    {"!=", "a,b", 2, compares<Comparison::kNotEqual>},
    {"lt", "a,b", 2, compares<Comparison::kLess>},
    {"<", "a,b", 2, compares<Comparison::kLess>},
    {"lessthan", "a,b", 2, compares<Comparison::kLess>},
    {"le", "a,b", 2, compares<Comparison::kLessEqual>},
    {"<=", "a,b", 2, compares<Comparison::kLessEqual>},
    {"gt", "a,b", 2, compares<Comparison::kGreater>},
    {">", "a,b", 2, compares<Comparison::kGreater>},
    {"greaterthan", "a,b", 2, compares<Comparison::kGreater>},
    {"ge", "a,b", 2, compares<Comparison::kGreaterEqual>},
    {">=", "a,b", 2, compares<Comparison::kGreaterEqual>},
    {"filter", "value", 1, is_filter},
    {"test", "value", 1, is_test},
    {"escaped", "value", 1, is_escaped},
};

}  // namespace

const Builtin* find_test(std::string_view name) {
  return find_in(kTests, name);
}

}  // namespace longshore::text::jinja
