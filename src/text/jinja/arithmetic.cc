#include <cmath>
#include <limits>

#include "text/jinja/operators.h"
#include "text/jinja/printf.h"

namespace longshore::text::jinja {
namespace {

std::string_view symbol_of(Op op) {
  switch (op) {
    case Op::kAdd:
      return "+";
    case Op::kSubtract:
      return "-";
    case Op::kMultiply:
      return "*";
    case Op::kDivide:
      return "/";
    case Op::kFloorDivide:
      return "//";
    case Op::kModulo:
      return "%";
    default:
      return "** or pow()";
  }
}

Result<Value> integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return raise("0.0 cannot be raised to a negative power");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
      return checked_integer(true, 0);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return checked_integer(true, 0);
  }
  return Value::integer(result);
}

Result<Value> integer_division(Op op, int64_t a, int64_t b) {
  if (b == 0) return raise("division by zero");
  if (op == Op::kDivide) return Value::real(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (op == Op::kModulo) return Value::integer(0);
    return checked_integer(a == std::numeric_limits<int64_t>::min(),
                           a == std::numeric_limits<int64_t>::min() ? 0 : -a);
  }
  const int64_t rest = a % b;
  const bool down = rest != 0 && ((rest < 0) != (b < 0));
  if (op == Op::kModulo) return Value::integer(down ? rest + b : rest);
  return Value::integer(a / b - (down ? 1 : 0));
}

Result<Value> integer_arithmetic(Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Op::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Op::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Op::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Op::kPower:
      return integer_power(a, b);
    default:
      return integer_division(op, a, b);
  }
  return checked_integer(overflow, result);
}

Result<Value> float_division(Op op, double a, double b) {
  if (b == 0) return raise("float division by zero");
  if (op == Op::kDivide) return Value::real(a / b);
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && ((rest < 0) != (b < 0))) {
    rest += b;
    quotient -= 1;
  }
  if (rest == 0) rest = std::copysign(0.0, b);
  if (op == Op::kModulo) return Value::real(rest);
  return Value::real(quotient == 0 ? std::copysign(0.0, a / b) : std::floor(quotient + 0.5));
}

Result<Value> float_power(double a, double b) {
  if (a == 0 && b < 0) return raise("0.0 cannot be raised to a negative power");
  const double result = std::pow(a, b);
  if (std::isnan(result) && !std::isnan(a) && !std::isnan(b))
    return raise("complex numbers are not supported");
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
    return raise("numerical result out of range");
  return Value::real(result);
}

Result<Value> float_arithmetic(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::real(a + b);
    case Op::kSubtract:
      return Value::real(a - b);
    case Op::kMultiply:
      return Value::real(a * b);
    case Op::kPower:
      return float_power(a, b);
    default:
      return float_division(op, a, b);
  }
}

Result<Value> repeat(Runtime& rt, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (value.is_string()) {
    const std::string& text = value.as_string();
    LS_TRY_VOID(rt.charge_product(static_cast<int64_t>(text.size()), times));
    if (text.empty()) times = 0;
    std::string out;
    out.reserve(text.size() * static_cast<size_t>(times));
    for (int64_t i = 0; i < times; ++i) out += text;
    return Value::string(std::move(out));
  }
  const auto& items = value.as_list().items;
  if (items.empty()) times = 0;
  LS_TRY_VOID(rt.charge_product(static_cast<int64_t>(items.size()) * 32, times));
  std::vector<Value> out;
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return value.is(Kind::kList) ? rt.list(std::move(out)) : rt.tuple(std::move(out));
}

Result<Value> concatenate(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_string()) {
    LS_TRY_VOID(rt.charge_bytes(static_cast<int64_t>(a.as_string().size() + b.as_string().size())));
    return Value::string(a.as_string() + b.as_string());
  }
  std::vector<Value> items = a.as_list().items;
  items.insert(items.end(), b.as_list().items.begin(), b.as_list().items.end());
  return a.is(Kind::kList) ? rt.list(std::move(items)) : rt.tuple(std::move(items));
}

bool repeatable(const Value& value) {
  return value.is_string() || value.is_sequence();
}

}  // namespace

Result<void> refuse_undefined(const Value& value) {
  if (value.undefined()) return raise("{}", value.undefined_message());
  return {};
}

Result<Value> checked_integer(bool overflow, int64_t value) {
  if (overflow) return raise("an integer does not fit in 64 bits");
  return Value::integer(value);
}

Result<Value> negate(const Value& a, bool minus) {
  LS_TRY_VOID(refuse_undefined(a));
  if (a.is_integer()) {
    int64_t result = a.as_int();
    const bool overflow = minus && __builtin_sub_overflow(int64_t{0}, a.as_int(), &result);
    return checked_integer(overflow, result);
  }
  if (a.is(Kind::kFloat)) return Value::real(minus ? -a.as_double() : a.as_double());
  return raise("bad operand type for unary {}: '{}'", minus ? '-' : '+', a.type_name());
}

Result<Value> arithmetic(Runtime& rt, Op op, const Value& a, const Value& b) {
  if (op == Op::kModulo && a.is_string()) return format_percent(rt, a.as_string(), b);
  LS_TRY_VOID(refuse_undefined(a));
  LS_TRY_VOID(refuse_undefined(b));
  if (a.is_integer() && b.is_integer()) return integer_arithmetic(op, a.as_int(), b.as_int());
  if (a.is(Kind::kUint) || b.is(Kind::kUint))
    return raise("an integer beyond 64 bits cannot be calculated with");
  if (a.is_number() && b.is_number()) return float_arithmetic(op, a.as_double(), b.as_double());
  if (op == Op::kAdd && repeatable(a) && a.kind() == b.kind()) return concatenate(rt, a, b);
  if (op == Op::kMultiply && repeatable(a) && b.is_integer()) return repeat(rt, a, b.as_int());
  if (op == Op::kMultiply && repeatable(b) && a.is_integer()) return repeat(rt, b, a.as_int());
  if (op == Op::kAdd && a.is_string()) {
    return raise("can only concatenate str (not \"{}\") to str", b.type_name());
  }
  return raise("unsupported operand type(s) for {}: '{}' and '{}'", symbol_of(op), a.type_name(),
               b.type_name());
}

}  // namespace longshore::text::jinja
