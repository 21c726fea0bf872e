// Schemas as applications send them, each with a value in its one form: what bench grammar
// measures.
#pragma once

#include <string>
#include <vector>

namespace longshore::bench {

struct GrammarCase {
  std::string name;
  std::string schema;  // JSON Schema
  std::string text;    // a text that it allows
};

[[nodiscard]] std::vector<GrammarCase> grammar_cases();

// tokens[id]: a vocabulary of that size that looks like a large model's: all bytes, digits up to
// three, punctuation as JSON has it, words in several languages with and without a blank before
// them, blanks. The same every time.
[[nodiscard]] std::vector<std::string> synthetic_vocabulary(size_t size);

}  // namespace longshore::bench
