#include "text/grammar/numbers.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

#include "base/check.h"

namespace longshore::text {
namespace {

constexpr size_t kMaxWhole = 18;
constexpr size_t kMaxWithFraction = 15;
constexpr size_t kMaxBound = 400;

struct Decimal {
  bool negative = false;
  std::string whole;     // no leading zeros, at least one digit
  std::string fraction;  // no trailing zeros

  [[nodiscard]] bool zero() const { return whole == "0" && fraction.empty(); }
};

Decimal parse(std::string_view text) {
  Decimal made;
  if (text.starts_with('-')) {
    made.negative = true;
    text.remove_prefix(1);
  }
  const size_t point = std::min(text.find('.'), text.size());
  made.whole = text.substr(0, point);
  if (point < text.size()) made.fraction = text.substr(point + 1);
  while (made.fraction.ends_with('0')) made.fraction.pop_back();
  if (made.zero()) made.negative = false;
  return made;
}

int sign_of(int value) {
  return value < 0 ? -1 : value > 0 ? 1 : 0;
}

int compare_sizes(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size() ? -1 : 1;
  if (a.whole != b.whole) return sign_of(a.whole.compare(b.whole));
  return sign_of(a.fraction.compare(b.fraction));
}

// One end of the range of a number's size, without its sign.
struct SizeBound {
  Decimal value;
  bool exclusive = false;
};
struct SizeRange {
  bool possible = true;
  std::optional<SizeBound> low;
  std::optional<SizeBound> high;
};

SizeRange sizes_of(const NumberRange& range, bool negative) {
  SizeRange made;
  const auto& near = negative ? range.high : range.low;
  const auto& far = negative ? range.low : range.high;
  if (negative) made.low = SizeBound{parse("0"), true};  // there is no -0
  if (near) {
    const Decimal value = parse(near->value);
    if (!value.zero() && value.negative == negative) {
      made.low = SizeBound{value, near->exclusive};
    } else if (value.zero() && near->exclusive) {
      made.low = SizeBound{value, true};
    }
  }
  if (far) {
    const Decimal value = parse(far->value);
    made.possible = value.zero() ? !negative : value.negative == negative;
    if (made.possible) made.high = SizeBound{value, far->exclusive};
  }
  return made;
}

// How the digits so far compare with a bound's: -1, 0, 1; of the whole part as if both were equally
// long.
struct Compare {
  int8_t low = 0;
  int8_t high = 0;
  auto operator<=>(const Compare&) const = default;
};

struct State {
  enum Place : uint8_t { kStart, kSign, kZero, kWhole, kPoint, kFraction };
  Place place = kStart;
  bool negative = false;
  uint16_t whole = 0;     // digits
  uint16_t fraction = 0;  // digits
  Compare compare;
  auto operator<=>(const State&) const = default;
};

class Walker {
 public:
  explicit Walker(const NumberRange& range)
      : whole_only_(range.whole), sizes_{sizes_of(range, false), sizes_of(range, true)} {
    for (const SizeRange& sizes : sizes_) {
      for (const auto& bound : {sizes.low, sizes.high}) {
        if (bound) most_ = std::max(most_, bound->value.whole.size());
      }
    }
  }

  std::optional<State> operator()(const State& at, uint8_t byte) const {
    State next = at;
    const bool digit = byte >= '0' && byte <= '9';
    switch (at.place) {
      case State::kStart:
        if (byte == '-') {
          next.place = State::kSign;
          next.negative = true;
          return next;
        }
        [[fallthrough]];
      case State::kSign:
        if (!digit || !sizes(at).possible) return std::nullopt;
        next.place = byte == '0' ? State::kZero : State::kWhole;
        return with_whole(next, byte);
      case State::kWhole:
        if (digit) return with_whole(next, byte);
        [[fallthrough]];
      case State::kZero:
        if (byte != '.' || whole_only_ || at.whole >= kMaxWithFraction) return std::nullopt;
        next.place = State::kPoint;
        next.compare = {after_whole(at, sizes(at).low, at.compare.low),
                        after_whole(at, sizes(at).high, at.compare.high)};
        return next;
      case State::kPoint:
      case State::kFraction:
        if (!digit) return std::nullopt;
        next.place = State::kFraction;
        if (at.whole + at.fraction >= static_cast<int>(kMaxWithFraction)) return std::nullopt;
        next.compare = {with_fraction(at, sizes(at).low, at.compare.low, byte),
                        with_fraction(at, sizes(at).high, at.compare.high, byte)};
        ++next.fraction;
        return next;
    }
    return std::nullopt;
  }

  [[nodiscard]] bool accepting(const State& at) const {
    if (at.place == State::kStart || at.place == State::kSign || at.place == State::kPoint)
      return false;
    const SizeRange& range = sizes(at);
    return (!range.low ||
            at_end(at, *range.low, at.compare.low) > (range.low->exclusive ? 0 : -1)) &&
           (!range.high ||
            at_end(at, *range.high, at.compare.high) < (range.high->exclusive ? 0 : 1));
  }

 private:
  [[nodiscard]] const SizeRange& sizes(const State& at) const {
    return sizes_[at.negative ? 1 : 0];
  }

  [[nodiscard]] std::optional<State> with_whole(State next, uint8_t byte) const {
    if (next.whole >= std::max(kMaxWhole, most_)) return std::nullopt;
    const auto compared = [&](const std::optional<SizeBound>& bound, int8_t so_far) -> int8_t {
      if (!bound || so_far != 0 || next.whole >= bound->value.whole.size()) return so_far;
      return static_cast<int8_t>(sign_of(byte - bound->value.whole[next.whole]));
    };
    next.compare = {compared(sizes(next).low, next.compare.low),
                    compared(sizes(next).high, next.compare.high)};
    ++next.whole;
    return next;
  }

  [[nodiscard]] static int8_t after_whole(const State& at, const std::optional<SizeBound>& bound,
                                          int8_t so_far) {
    if (!bound || at.whole == bound->value.whole.size()) return so_far;
    return at.whole < bound->value.whole.size() ? -1 : 1;
  }

  [[nodiscard]] static int8_t with_fraction(const State& at, const std::optional<SizeBound>& bound,
                                            int8_t so_far, uint8_t byte) {
    if (!bound || so_far != 0) return so_far;
    const std::string& fraction = bound->value.fraction;
    const char digit = at.fraction < fraction.size() ? fraction[at.fraction] : '0';
    return static_cast<int8_t>(sign_of(byte - digit));
  }

  [[nodiscard]] static int at_end(const State& at, const SizeBound& bound, int8_t so_far) {
    const bool in_fraction = at.place == State::kFraction;
    const int whole = in_fraction ? so_far : after_whole(at, bound, so_far);
    if (whole != 0) return whole;
    return bound.value.fraction.size() > (in_fraction ? at.fraction : 0U) ? -1 : 0;
  }

  bool whole_only_;
  std::array<SizeRange, 2> sizes_;  // of positive and negative numbers
  size_t most_ = 0;
};

bool same_side(const NumberRange::Bound& a, const NumberRange::Bound& b, int sign) {
  const int order = compare_plain(a.value, b.value) * sign;
  return order > 0 || (order == 0 && a.exclusive);
}

// In full a large double has digits that nobody wrote (1e23 is 99999999999999991611392): only those
// that tell it from its neighbours, then zeros.
std::string whole_number(double value) {
  std::array<char, 40> buffer;
  const auto [end, status] = std::to_chars(buffer.data(), buffer.data() + buffer.size(),
                                           std::abs(value), std::chars_format::scientific);
  LS_CHECK(status == std::errc());
  const std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t mark = text.find("e+");
  LS_CHECK(mark != std::string_view::npos || value == 0);
  if (value == 0) return "0";
  size_t exponent = 0;
  std::from_chars(text.data() + mark + 2, text.data() + text.size(), exponent);
  std::string made(text.substr(0, mark));
  std::erase(made, '.');
  made.resize(exponent + 1, '0');
  return value < 0 ? '-' + made : made;
}

}  // namespace

std::string plain_number(const Json& number) {
  if (!number.is_number_float()) return number.dump();
  const auto value = number.get<double>();
  // A double of 1e308 has 309 digits, one of 5e-324 has 325.
  std::array<char, 800> buffer;
  const auto [end, status] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  LS_CHECK(status == std::errc() && std::isfinite(value));
  std::string made(buffer.data(), end);
  return made.find('.') == std::string::npos ? whole_number(value) : made;
}

std::string plain_json(const Json& value) {
  if (value.is_number()) return plain_number(value);
  if (!value.is_structured())
    return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  const bool object = value.is_object();
  std::string made(1, object ? '{' : '[');
  for (const auto& [key, member] : value.items()) {
    if (made.size() > 1) made += ',';
    if (object) made += plain_json(Json(key)) + ':';
    made += plain_json(member);
  }
  return made += object ? '}' : ']';
}

int compare_plain(const std::string& a, const std::string& b) {
  const Decimal left = parse(a);
  const Decimal right = parse(b);
  if (left.negative != right.negative) return left.negative ? -1 : 1;
  return left.negative ? compare_sizes(right, left) : compare_sizes(left, right);
}

void NumberRange::raise(const Bound& bound) {
  if (!low || same_side(bound, *low, 1)) low = bound;
}

void NumberRange::lower(const Bound& bound) {
  if (!high || same_side(bound, *high, -1)) high = bound;
}

bool NumberRange::contains(const std::string& plain) const {
  if (whole && plain.find('.') != std::string::npos) return false;
  if (low && compare_plain(plain, low->value) < (low->exclusive ? 1 : 0)) return false;
  return !high || compare_plain(plain, high->value) <= (high->exclusive ? -1 : 0);
}

Result<Machine> numbers_in(const NumberRange& range) {
  for (const auto& bound : {range.low, range.high}) {
    if (bound && bound->value.size() > kMaxBound)
      return fail(ErrorKind::kUsage, "a bound has more than {} digits", kMaxBound);
  }
  constexpr size_t kLimit = 100'000;
  const Walker walker(range);
  return explore(
      State{}, walker, [&](const State& at) { return walker.accepting(at); }, kLimit);
}

}  // namespace longshore::text
