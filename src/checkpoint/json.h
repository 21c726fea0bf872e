// JSON from files that nobody vouches for: bounded depth, no duplicate keys, no exceptions.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longshore {

// where: the file, for messages. Errors (kModel) say the byte at which the text stops being
// acceptable.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& where);

// Text from a file as it may stand in a one-line message: control characters and bytes outside
// ASCII become '?', and it is cut at 160 characters.
std::string printable(std::string_view text);

}  // namespace longshore
