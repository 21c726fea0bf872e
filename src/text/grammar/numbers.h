// Numbers in their one form: `-`? digits without leading zeros, perhaps a fraction, no exponent. At
// most 18 digits before the point, or as many as a bound has; with a fraction at most 15 in all, so
// that every reader's double keeps apart what a bound keeps apart.
//
// Threading: free functions without state.
#pragma once

#include <optional>
#include <string>

#include "text/chat_template.h"
#include "text/grammar/machine.h"

namespace longshore::text {

// A JSON number in that form ("1e3" is "1000", "1.0" is "1").
[[nodiscard]] std::string plain_number(const Json& number);
// A JSON value in the one form: compact, members in their order, numbers as above.
[[nodiscard]] std::string plain_json(const Json& value);

// -1, 0, 1 as a is below, equal to or above b; both in plain form. Exact.
[[nodiscard]] int compare_plain(const std::string& a, const std::string& b);

struct NumberRange {
  struct Bound {
    std::string value;  // plain form
    bool exclusive = false;
  };
  std::optional<Bound> low;
  std::optional<Bound> high;
  bool whole = false;  // whole numbers only

  // The narrower one of the two.
  void raise(const Bound& bound);
  void lower(const Bound& bound);
  [[nodiscard]] bool contains(const std::string& plain) const;
};

// kUsage: bounds with too many digits.
Result<Machine> numbers_in(const NumberRange& range);

}  // namespace longshore::text
