// Regular languages of strings: as raw text and as JSON writes them, with lengths, formats, and
// without the markup of tool calls.
//
// JSON strings have one form: `\"`, `\\`, \b \f \n \r \t, \u00xx in small letters for the other
// control characters, everything else as it is. Threading: free functions without state.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/grammar/machine.h"

namespace longshore::text {

// All texts of valid UTF-8.
[[nodiscard]] const Machine& any_text();
// The texts of `texts` and no others; any number of them.
[[nodiscard]] Machine one_of(std::vector<std::string> texts);
// Those of the texts that have `low` to `high` code points.
Result<Machine> with_length(const Machine& texts, uint32_t low, uint32_t high, size_t limit);
// Those that contain none of the tags of tool calls.
Result<Machine> without_tags(const Machine& texts, size_t limit);
// The texts as JSON strings, quotes included.
Result<Machine> as_json_strings(const Machine& texts, size_t limit);
// The texts that nobody takes for JSON or for blank-padded JSON: no numbers, literals, brackets.
Result<Machine> unlike_json(const Machine& texts, size_t limit);

// date, date-time, uuid, email; nothing for others. Seconds of 60, small t and z and the year 0000
// are left out.
[[nodiscard]] const Machine* format_named(std::string_view name);
// For messages.
constexpr std::string_view kFormats = "date-time, date, uuid and email";

}  // namespace longshore::text
