// Filters that make or take numbers.
#include <charconv>
#include <cmath>

#include "text/jinja/filters.h"
#include "text/jinja/unicode.h"

namespace longshore::text::jinja {
namespace {

using Out = Result<Value>;

// Digits with single underscores between them lose these; anything else odd is refused.
bool clean_number(std::string_view text, std::string& out) {
  text = strip(text, Side::kBoth);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() &&
                         std::isalnum(static_cast<uint8_t>(text[i - 1])) != 0 &&
                         std::isalnum(static_cast<uint8_t>(text[i + 1])) != 0;
    if (!between) return false;
  }
  return !out.empty();
}

// Python's float(text).
bool parse_float(std::string_view text, double& value) {
  std::string clean;
  if (!clean_number(text, clean)) return false;
  const char* first = clean.data() + (clean[0] == '+' ? 1 : 0);
  const char* last = clean.data() + clean.size();
  if (first == last || (first != clean.data() && *first == '-')) return false;
  const auto done = std::from_chars(first, last, value);
  if (done.ptr != last || clean.find('(') != std::string::npos) return false;
  if (done.ec == std::errc::result_out_of_range) {
    const bool tiny =
        clean.find("e-") != std::string::npos || clean.find("E-") != std::string::npos;
    value = std::copysign(tiny ? 0.0 : HUGE_VAL, clean[0] == '-' ? -1.0 : 1.0);
    return true;
  }
  return done.ec == std::errc();
}

void drop_prefix(std::string& digits, int64_t& base) {
  if (digits.size() < 2 || digits[0] != '0') return;
  const char letter = static_cast<char>(digits[1] | 0x20);
  const int64_t named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
  if (named == 0 || (base != 0 && base != named)) return;
  base = named;
  digits.erase(0, 2);
}

enum class Parsed : uint8_t { kYes, kNo, kTooLarge };

// Python's int(text, base).
Parsed parse_integer(std::string_view text, int64_t base, int64_t& value) {
  std::string clean;
  if (!clean_number(text, clean)) return Parsed::kNo;
  const bool negative = clean[0] == '-';
  if (negative || clean[0] == '+') clean.erase(0, 1);
  drop_prefix(clean, base);
  if (base == 0) base = 10;
  if (clean.empty() || clean[0] == '-') return Parsed::kNo;
  if (negative) clean.insert(0, 1, '-');
  const auto done =
      std::from_chars(clean.data(), clean.data() + clean.size(), value, static_cast<int>(base));
  if (done.ptr != clean.data() + clean.size()) return Parsed::kNo;
  return done.ec == std::errc() ? Parsed::kYes : Parsed::kTooLarge;
}

Out whole(double d, const Value& otherwise) {
  if (!std::isfinite(d)) return otherwise;
  return checked_integer(!(d > -9.2233720368547758e18 && d < 9.2233720368547758e18),
                         std::fabs(d) < 9.2e18 ? static_cast<int64_t>(d) : 0);
}

Out to_int(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  LS_TRY_VOID(refuse_undefined(a[0]));
  const Value otherwise = a[1].missing() ? Value::integer(0) : a[1];
  LS_TRY(const int64_t base, integer_argument(a[2], 10));
  if (base != 0 && (base < 2 || base > 36)) return otherwise;
  if (a[0].is_integer()) return Value::integer(a[0].as_int());
  if (a[0].is(Kind::kUint)) return a[0];
  if (a[0].is(Kind::kFloat)) return whole(a[0].as_double(), otherwise);
  if (!a[0].is_string()) return otherwise;
  int64_t value = 0;
  const Parsed parsed = parse_integer(a[0].as_string(), base, value);
  if (parsed != Parsed::kNo) return checked_integer(parsed == Parsed::kTooLarge, value);
  double d = 0;
  return parse_float(a[0].as_string(), d) ? whole(d, otherwise) : Out(otherwise);
}

Out to_float(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  LS_TRY_VOID(refuse_undefined(a[0]));
  const Value otherwise = a[1].missing() ? Value::real(0) : a[1];
  if (a[0].is_number()) return Value::real(a[0].as_double());
  double d = 0;
  if (a[0].is_string() && parse_float(a[0].as_string(), d)) return Value::real(d);
  return otherwise;
}

Out absolute(Runtime& /*rt*/, Bound& a, Args& /*rest*/) {
  LS_TRY_VOID(refuse_undefined(a[0]));
  if (a[0].is(Kind::kFloat)) return Value::real(std::fabs(a[0].as_double()));
  if (a[0].is(Kind::kUint)) return a[0];
  if (!a[0].is_integer()) return raise("bad operand type for abs(): '{}'", a[0].type_name());
  return a[0].as_int() < 0 ? negate(a[0], true) : Out(Value::integer(a[0].as_int()));
}

// Python rounds to the nearest decimal, a tie by the exact binary value: the correctly rounded text
// gives it.
double round_decimal(double d, int64_t digits) {
  if (!std::isfinite(d) || digits > 300) return d;
  if (digits < -308) return std::copysign(0.0, d);
  if (digits >= 0) {
    const std::string text = fmt::format("{:.{}f}", d, digits);
    double out = 0;
    std::from_chars(text.data(), text.data() + text.size(), out);
    return out;
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(d / scale) * scale;
}

Out round(Runtime& rt, Bound& a, Args& /*rest*/) {
  LS_TRY_VOID(refuse_undefined(a[0]));
  LS_TRY(const int64_t digits, integer_argument(a[1], 0));
  LS_TRY(const std::string method, string_argument(a[2], "common"));
  if (method != "common" && method != "ceil" && method != "floor")
    return raise("method must be common, ceil or floor");
  if (!a[0].is_number()) return raise("type {} doesn't define __round__ method", a[0].type_name());
  if (method == "common") {
    if (a[0].is_integer() && digits >= 0) return Value::integer(a[0].as_int());
    const double rounded = round_decimal(a[0].as_double(), digits);
    return a[0].is_integer() ? whole(rounded, Value()) : Out(Value::real(rounded));
  }
  LS_TRY(const Value scale, arithmetic(rt, Op::kPower, Value::integer(10), Value::integer(digits)));
  const double scaled = a[0].as_double() * scale.as_double();
  if (!std::isfinite(scaled)) return raise("cannot round {}", float_repr(scaled));
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) /
                     scale.as_double());
}

constexpr Builtin kFilters[] = {
    {"int", "value,default,base", 1, to_int},
    {"float", "value,default", 1, to_float},
    {"abs", "x", 1, absolute},
    {"round", "value,precision,method", 1, round},
};

}  // namespace

std::span<const Builtin> number_filters() {
  return kFilters;
}

}  // namespace longshore::text::jinja
