// Regular expressions of JSON Schema's `pattern`: a text matches if any part of it does.
//
// Source: ECMA-262, chapter Patterns, with the `u` flag. The regular subset: characters, classes
// with \d \w \s and ranges, groups, alternatives, * + ? {m,n} (lazy ones match the same texts),
// ^ and $ anywhere. Refused by name: backreferences, lookaround, \b, \p. Threading: free functions.
#pragma once

#include <string_view>

#include "text/grammar/machine.h"
#include "text/grammar/nfa.h"

namespace longshore::text {

// The UTF-8 texts that the pattern matches. kUsage: what is wrong, and where in the pattern.
Result<Machine> compile_pattern(std::string_view pattern, size_t limit);

// \d \w \s and their complements.
[[nodiscard]] std::vector<CodePointRange> class_of_escape(char letter);

}  // namespace longshore::text
