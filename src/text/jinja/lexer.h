// Template text to tokens, with jinja2's white-space rules for trim_blocks and lstrip_blocks.
//
// Source: jinja2's documentation, "Whitespace Control" and "Template Designer Documentation".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/jinja/value.h"

namespace longshore::text::jinja {

enum class TokenType : uint8_t {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kInteger,
  kFloat,
  kString,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type;
  std::string text;  // data, name, operator, or a string's value
  int line;
  Value number;  // of kInteger and kFloat
};

// Errors: kModel, "where:line: reason".
[[nodiscard]] Result<std::vector<Token>> tokenize(std::string_view source,
                                                  const std::string& where);

}  // namespace longshore::text::jinja
