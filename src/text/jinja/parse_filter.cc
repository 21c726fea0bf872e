// The parts of expressions that name filters and tests.
#include <utility>

#include "text/jinja/parser.h"

namespace longshore::text::jinja {

Result<std::string> Parser::dotted_name() {
  LS_TRY(std::string name, expect_name());
  while (skip_operator(".")) {
    LS_TRY(const std::string part, expect_name());
    name += '.' + part;
  }
  return name;
}

// A chain of filters. A null node stands for a block's text.
Result<ExprPtr> Parser::filter(ExprPtr node, bool inline_start) {
  while (inline_start || is_operator("|")) {
    if (!inline_start) advance();
    inline_start = false;
    ExprPtr out = make(Op::kFilter, current().line);
    LS_TRY(out->text, dotted_name());
    out->operands.push_back(std::move(node));
    if (is_operator("(")) LS_TRY_VOID(call_arguments(*out));
    LS_TRY(node, finish(std::move(out)));
  }
  return node;
}

bool Parser::starts_test_argument() const {
  switch (current().type) {
    case TokenType::kName:
      return !is_name("else") && !is_name("or") && !is_name("and");
    case TokenType::kString:
    case TokenType::kInteger:
    case TokenType::kFloat:
      return true;
    default:
      return is_operator("[") || is_operator("{");
  }
}

Result<ExprPtr> Parser::test(ExprPtr node) {
  const int line = current().line;
  advance();
  const bool negated = skip_name("not");
  ExprPtr out = make(Op::kTest, line);
  LS_TRY(out->text, dotted_name());
  out->operands.push_back(std::move(node));
  if (is_operator("(")) {
    LS_TRY_VOID(call_arguments(*out));
  } else if (starts_test_argument()) {
    if (is_name("is")) return error(line, "tests cannot be chained with 'is'");
    LS_TRY(ExprPtr argument, primary());
    LS_TRY(argument, postfix(std::move(argument)));
    out->operands.push_back(std::move(argument));
  }
  LS_TRY(out, finish(std::move(out)));
  if (!negated) return out;
  ExprPtr inverse = make(Op::kNot, line);
  inverse->operands.push_back(std::move(out));
  return finish(std::move(inverse));
}

}  // namespace longshore::text::jinja
