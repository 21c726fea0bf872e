#include <algorithm>
#include <array>
#include <utility>

#include "text/jinja/parser.h"

namespace longshore::text::jinja {
namespace {

constexpr int kMaxNesting = 150;    // of parentheses and blocks together
constexpr int kMaxTreeDepth = 200;  // also of chains such as a + b + c

using OperatorTable = std::array<std::pair<std::string_view, Comparison>, 6>;
constexpr OperatorTable kComparisons = {{{"==", Comparison::kEqual},
                                         {"!=", Comparison::kNotEqual},
                                         {"<", Comparison::kLess},
                                         {"<=", Comparison::kLessEqual},
                                         {">", Comparison::kGreater},
                                         {">=", Comparison::kGreaterEqual}}};

int tree_depth(const Expr& node) {
  int depth = 0;
  for (const ExprPtr& operand : node.operands)
    depth = std::max(depth, operand ? operand->depth : 0);
  for (const auto& [name, value] : node.keyword) depth = std::max(depth, value->depth);
  if (node.star) depth = std::max(depth, node.star->depth);
  if (node.double_star) depth = std::max(depth, node.double_star->depth);
  return depth + 1;
}

}  // namespace

ExprPtr Parser::make(Op op, int line) const {
  auto node = std::make_unique<Expr>();
  node->op = op;
  node->line = line;
  return node;
}

Result<ExprPtr> Parser::finish(ExprPtr node) {
  node->depth = tree_depth(*node);
  if (node->depth > kMaxTreeDepth)
    return error(node->line,
                 "the expression is nested too deeply: set its parts to variables first");
  return node;
}

Result<ExprPtr> Parser::binary(Op op, int line, ExprPtr left, ExprPtr right) {
  ExprPtr node = make(op, line);
  node->operands.push_back(std::move(left));
  node->operands.push_back(std::move(right));
  return finish(std::move(node));
}

Result<ExprPtr> Parser::expression(bool conditional) {
  const Nesting nesting(*this);
  if (nesting_ > kMaxNesting)
    return error(current().line,
                 "the expression is nested too deeply: set its parts to variables first");
  return conditional ? conditional_expression() : or_expression();
}

Result<ExprPtr> Parser::conditional_expression() {
  LS_TRY(ExprPtr value, or_expression());
  while (is_name("if")) {
    ExprPtr node = make(Op::kConditional, current().line);
    advance();
    LS_TRY(ExprPtr condition, or_expression());
    ExprPtr otherwise;
    if (skip_name("else")) {
      LS_TRY(otherwise, expression());
    }
    node->operands.push_back(std::move(value));
    node->operands.push_back(std::move(condition));
    node->operands.push_back(std::move(otherwise));
    LS_TRY(value, finish(std::move(node)));
  }
  return value;
}

Result<ExprPtr> Parser::or_expression() {
  LS_TRY(ExprPtr left, and_expression());
  while (is_name("or")) {
    const int line = current().line;
    advance();
    LS_TRY(ExprPtr right, and_expression());
    LS_TRY(left, binary(Op::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::and_expression() {
  LS_TRY(ExprPtr left, not_expression());
  while (is_name("and")) {
    const int line = current().line;
    advance();
    LS_TRY(ExprPtr right, not_expression());
    LS_TRY(left, binary(Op::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::not_expression() {
  if (!is_name("not")) return comparison();
  const Nesting nesting(*this);
  if (nesting_ > kMaxNesting)
    return error(current().line,
                 "the expression is nested too deeply: set its parts to variables first");
  ExprPtr node = make(Op::kNot, current().line);
  advance();
  LS_TRY(ExprPtr operand, not_expression());
  node->operands.push_back(std::move(operand));
  return finish(std::move(node));
}

Result<ExprPtr> Parser::comparison() {
  const int line = current().line;
  LS_TRY(ExprPtr first, sum());
  ExprPtr node = make(Op::kCompare, line);
  node->operands.push_back(std::move(first));
  while (true) {
    const auto* found = std::find_if(kComparisons.begin(), kComparisons.end(),
                                     [&](const auto& entry) { return is_operator(entry.first); });
    if (found != kComparisons.end()) {
      node->comparisons.push_back(found->second);
      advance();
    } else if (skip_name("in")) {
      node->comparisons.push_back(Comparison::kIn);
    } else if (is_name("not") && look().type == TokenType::kName && look().text == "in") {
      advance();
      advance();
      node->comparisons.push_back(Comparison::kNotIn);
    } else {
      break;
    }
    LS_TRY(ExprPtr operand, sum());
    node->operands.push_back(std::move(operand));
  }
  if (node->comparisons.empty()) return std::move(node->operands[0]);
  return finish(std::move(node));
}

Result<ExprPtr> Parser::sum() {
  LS_TRY(ExprPtr left, concatenation());
  while (is_operator("+") || is_operator("-")) {
    const Op op = is_operator("+") ? Op::kAdd : Op::kSubtract;
    const int line = current().line;
    advance();
    LS_TRY(ExprPtr right, concatenation());
    LS_TRY(left, binary(op, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::concatenation() {
  const int line = current().line;
  LS_TRY(ExprPtr first, product());
  if (!is_operator("~")) return first;
  ExprPtr node = make(Op::kConcat, line);
  node->operands.push_back(std::move(first));
  while (skip_operator("~")) {
    LS_TRY(ExprPtr operand, product());
    node->operands.push_back(std::move(operand));
  }
  return finish(std::move(node));
}

Result<ExprPtr> Parser::product() {
  static constexpr std::array<std::pair<std::string_view, Op>, 4> kOperators = {
      {{"*", Op::kMultiply}, {"/", Op::kDivide}, {"//", Op::kFloorDivide}, {"%", Op::kModulo}}};
  LS_TRY(ExprPtr left, power());
  while (true) {
    const auto* found = std::find_if(kOperators.begin(), kOperators.end(),
                                     [&](const auto& entry) { return is_operator(entry.first); });
    if (found == kOperators.end()) return left;
    const int line = current().line;
    advance();
    LS_TRY(ExprPtr right, power());
    LS_TRY(left, binary(found->second, line, std::move(left), std::move(right)));
  }
}

Result<ExprPtr> Parser::power() {
  LS_TRY(ExprPtr left, unary());
  while (is_operator("**")) {
    const int line = current().line;
    advance();
    LS_TRY(ExprPtr right, unary());
    LS_TRY(left, binary(Op::kPower, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::unary(bool with_filter) {
  const Nesting nesting(*this);
  if (nesting_ > kMaxNesting)
    return error(current().line,
                 "the expression is nested too deeply: set its parts to variables first");
  ExprPtr node;
  if (is_operator("-") || is_operator("+")) {
    node = make(is_operator("-") ? Op::kNegate : Op::kPlus, current().line);
    advance();
    LS_TRY(ExprPtr operand, unary(false));
    node->operands.push_back(std::move(operand));
    LS_TRY(node, finish(std::move(node)));
  } else {
    LS_TRY(node, primary());
  }
  LS_TRY(node, postfix(std::move(node)));
  if (!with_filter) return node;
  return filter_expression(std::move(node));
}

Result<ExprPtr> Parser::name_expression() {
  const Token& token = current();
  ExprPtr node = make(Op::kConst, token.line);
  if (token.text == "true" || token.text == "True") {
    node->constant = Value::boolean(true);
  } else if (token.text == "false" || token.text == "False") {
    node->constant = Value::boolean(false);
  } else if (token.text == "none" || token.text == "None") {
    node->constant = Value::none();
  } else {
    node->op = Op::kName;
    node->text = token.text;
    node->symbol = symbol(token.text);
    if (macro_ != nullptr) {
      macro_->uses_caller |= node->symbol == kCallerSymbol;
      macro_->uses_varargs |= node->symbol == kVarargsSymbol;
      macro_->uses_kwargs |= node->symbol == kKwargsSymbol;
    }
  }
  advance();
  return node;
}

Result<ExprPtr> Parser::string_expression() {
  ExprPtr node = make(Op::kConst, current().line);
  std::string text;
  for (; current().type == TokenType::kString; advance()) text += current().text;
  node->constant = Value::string(std::move(text));
  return node;
}

Result<ExprPtr> Parser::primary() {
  const Token& token = current();
  switch (token.type) {
    case TokenType::kName:
      return name_expression();
    case TokenType::kString:
      return string_expression();
    case TokenType::kInteger:
    case TokenType::kFloat: {
      ExprPtr node = make(Op::kConst, token.line);
      node->constant = token.number;
      advance();
      return node;
    }
    default:
      break;
  }
  if (skip_operator("(")) {
    LS_TRY(ExprPtr node, tuple(true));
    LS_TRY_VOID(expect_operator(")"));
    return node;
  }
  if (is_operator("[")) return list_expression();
  if (is_operator("{")) return dict_expression();
  return error(token.line, "unexpected '{}', expected an expression", token.text);
}

Result<ExprPtr> Parser::list_expression() {
  ExprPtr node = make(Op::kList, current().line);
  advance();
  while (!is_operator("]")) {
    if (!node->operands.empty()) LS_TRY_VOID(expect_operator(","));
    if (is_operator("]")) break;
    LS_TRY(ExprPtr item, expression());
    node->operands.push_back(std::move(item));
  }
  advance();
  return finish(std::move(node));
}

Result<ExprPtr> Parser::dict_expression() {
  ExprPtr node = make(Op::kDict, current().line);
  advance();
  while (!is_operator("}")) {
    if (!node->operands.empty()) LS_TRY_VOID(expect_operator(","));
    if (is_operator("}")) break;
    LS_TRY(ExprPtr key, expression());
    LS_TRY_VOID(expect_operator(":"));
    LS_TRY(ExprPtr value, expression());
    node->operands.push_back(std::move(key));
    node->operands.push_back(std::move(value));
  }
  advance();
  return finish(std::move(node));
}

bool Parser::tuple_end(std::string_view end_name) const {
  const TokenType type = current().type;
  if (type == TokenType::kVariableEnd || type == TokenType::kBlockEnd || is_operator(")"))
    return true;
  return !end_name.empty() && is_name(end_name);
}

Result<ExprPtr> Parser::tuple(bool parenthesized, bool conditional, std::string_view end_name) {
  ExprPtr node = make(Op::kTuple, current().line);
  bool commas = false;
  while (true) {
    if (!node->operands.empty()) LS_TRY_VOID(expect_operator(","));
    if (tuple_end(end_name)) break;
    LS_TRY(ExprPtr item, expression(conditional));
    node->operands.push_back(std::move(item));
    if (!is_operator(",")) break;
    commas = true;
  }
  if (!commas) {
    if (!node->operands.empty()) return std::move(node->operands[0]);
    if (!parenthesized)
      return error(current().line, "expected an expression, got '{}'", current().text);
  }
  return finish(std::move(node));
}

Result<ExprPtr> Parser::postfix(ExprPtr node) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      LS_TRY(node, subscript(std::move(node)));
    } else if (is_operator("(")) {
      LS_TRY(node, call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> Parser::filter_expression(ExprPtr node) {
  while (true) {
    if (is_operator("|")) {
      LS_TRY(node, filter(std::move(node)));
    } else if (is_name("is")) {
      LS_TRY(node, test(std::move(node)));
    } else if (is_operator("(")) {
      LS_TRY(node, call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> Parser::subscript(ExprPtr node) {
  const int line = current().line;
  if (skip_operator(".")) {
    const Token& token = current();
    if (token.type == TokenType::kName) {
      ExprPtr out = make(Op::kAttribute, line);
      out->text = token.text;
      out->constant = Value::string(token.text);
      out->operands.push_back(std::move(node));
      advance();
      return finish(std::move(out));
    }
    if (token.type != TokenType::kInteger)
      return error(line, "expected a name or number after '.'");
    ExprPtr index = make(Op::kConst, line);
    index->constant = token.number;
    advance();
    return binary(Op::kItem, line, std::move(node), std::move(index));
  }
  advance();
  ExprPtr several = make(Op::kTuple, line);
  while (!is_operator("]")) {
    if (!several->operands.empty()) LS_TRY_VOID(expect_operator(","));
    LS_TRY(ExprPtr part, subscript_part());
    several->operands.push_back(std::move(part));
  }
  advance();
  if (several->operands.size() == 1)
    return binary(Op::kItem, line, std::move(node), std::move(several->operands[0]));
  LS_TRY(several, finish(std::move(several)));
  return binary(Op::kItem, line, std::move(node), std::move(several));
}

Result<ExprPtr> Parser::subscript_part() {
  ExprPtr slice = make(Op::kSlice, current().line);
  slice->operands.resize(3);
  size_t part = 0;
  while (true) {
    if (is_operator(":") && part < 2) {
      advance();
      ++part;
      continue;
    }
    if (is_operator("]") || is_operator(",")) break;
    if (slice->operands[part])
      return error(current().line, "expected ']', got '{}'", current().text);
    LS_TRY(slice->operands[part], expression());
  }
  if (part == 0 && !slice->operands[0])
    return error(current().line, "expected an expression in '[]'");
  if (part == 0) return std::move(slice->operands[0]);
  return finish(std::move(slice));
}

Result<void> Parser::call_argument(Expr& node) {
  const int line = current().line;
  if (skip_operator("**")) {
    if (node.double_star) return error(line, "invalid syntax for function call expression");
    LS_TRY(node.double_star, expression());
    return {};
  }
  if (skip_operator("*")) {
    if (node.star || node.double_star)
      return error(line, "invalid syntax for function call expression");
    LS_TRY(node.star, expression());
    return {};
  }
  const bool keyword = current().type == TokenType::kName && look().type == TokenType::kOperator &&
                       look().text == "=";
  if (node.double_star || (!keyword && (node.star || !node.keyword.empty()))) {
    return error(line, "invalid syntax for function call expression");
  }
  if (keyword) {
    std::string name = current().text;
    advance();
    advance();
    for (const auto& known : node.keyword) {
      if (known.first == name) return error(line, "keyword argument repeated: {}", name);
    }
    LS_TRY(ExprPtr value, expression());
    node.keyword.emplace_back(std::move(name), std::move(value));
    return {};
  }
  LS_TRY(ExprPtr value, expression());
  node.operands.push_back(std::move(value));
  return {};
}

Result<void> Parser::call_arguments(Expr& node) {
  LS_TRY_VOID(expect_operator("("));
  bool first = true;
  while (!is_operator(")")) {
    if (!first) {
      LS_TRY_VOID(expect_operator(","));
      if (is_operator(")")) break;
    }
    first = false;
    LS_TRY_VOID(call_argument(node));
  }
  advance();
  return {};
}

Result<ExprPtr> Parser::call(ExprPtr node) {
  ExprPtr out = make(Op::kCall, current().line);
  out->operands.push_back(std::move(node));
  LS_TRY_VOID(call_arguments(*out));
  return finish(std::move(out));
}

}  // namespace longshore::text::jinja
