// Grammars in the notation of llama.cpp (GBNF, an EBNF): `name ::= "text" [a-z] other ( ... | ...
// )*`.
//
// Source: the notation's description in llama.cpp, grammars/README.md. Literals with \n \r \t \\ \"
// \xHH \uHHHH \UHHHHHHHH, classes with ranges and ^, `.`, groups, alternatives, * + ? {m} {m,}
// {m,n}, comments from #. The rule `root` begins; left recursion is allowed. Not taken: tokens
// (`<...>`). Threading: free functions.
#pragma once

#include <string_view>

#include "base/error.h"
#include "text/grammar/grammar.h"

namespace longshore::text {

// kUsage: what is wrong, and in which line.
Result<Grammar> parse_gbnf(std::string_view source);
// The same into a grammar that has more; the rule `root` is returned.
Result<RuleId> parse_gbnf(std::string_view source, Grammar& grammar);

}  // namespace longshore::text
