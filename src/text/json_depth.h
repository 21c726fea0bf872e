// How deep a JSON text nests, before a parser or whoever walks the result meets it.
//
// Threading: a pure function.
#pragma once

#include <string_view>

namespace longshore::text {

// Deepest nesting of JSON that a user may hand in.
constexpr int kMaxJsonDepth = 256;

// Deeper than `limit`. Exact for JSON; of what is not JSON, the parser only builds the part before
// the fault, for which it is exact too.
[[nodiscard]] inline bool nests_deeper(std::string_view json, int limit) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace longshore::text
