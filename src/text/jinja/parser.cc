#include "text/jinja/parser.h"

#include <algorithm>
#include <utility>

namespace longshore::text::jinja {
namespace {

constexpr int kMaxStatementNesting = 100;

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::kEnd:
    case TokenType::kBlockEnd:
      return token.text;
    case TokenType::kString:
      return "a string";
    default:
      return "'" + token.text + "'";
  }
}

}  // namespace

Parser::Parser(std::vector<Token> tokens, const std::string& where)
    : tokens_(std::move(tokens)), where_(where) {
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) symbol(name);
}

const Token& Parser::look(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

void Parser::advance() {
  if (at_ + 1 < tokens_.size()) ++at_;
}

bool Parser::is_operator(std::string_view text) const {
  return current().type == TokenType::kOperator && current().text == text;
}

bool Parser::is_name(std::string_view text) const {
  return current().type == TokenType::kName && current().text == text;
}

bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  advance();
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  advance();
  return true;
}

Result<void> Parser::expect_operator(std::string_view text) {
  if (skip_operator(text)) return {};
  return error(current().line, "expected '{}', got {}", text, describe(current()));
}

Result<std::string> Parser::expect_name() {
  if (current().type != TokenType::kName) {
    return error(current().line, "expected a name, got {}", describe(current()));
  }
  std::string name = current().text;
  advance();
  return name;
}

int Parser::symbol(const std::string& name) {
  const auto [it, added] = symbol_numbers_.emplace(name, static_cast<int>(symbols_.size()));
  if (added) symbols_.push_back(name);
  return it->second;
}

Result<Tree> Parser::run() {
  LS_TRY(Block body, block({}));
  return Tree{std::move(body), std::move(symbols_)};
}

Result<void> Parser::end_of_block() {
  if (current().type != TokenType::kBlockEnd) {
    return error(current().line, "expected end of statement block, got {}", describe(current()));
  }
  advance();
  return {};
}

Result<void> Parser::print_or_data(Block& out) {
  auto stmt = std::make_unique<Stmt>();
  stmt->line = current().line;
  if (current().type == TokenType::kData) {
    stmt->kind = StmtKind::kData;
    stmt->data = std::move(tokens_[at_].text);
    advance();
  } else {
    advance();
    stmt->kind = StmtKind::kOutput;
    LS_TRY(stmt->expr, tuple());
    if (current().type != TokenType::kVariableEnd) {
      return error(current().line, "expected end of print statement, got {}", describe(current()));
    }
    advance();
  }
  out.push_back(std::move(stmt));
  return {};
}

// Up to a block tag named by one of `ends` (left with its name as the current token), or to the end
// of the template.
Result<Block> Parser::block(const std::vector<std::string_view>& ends) {
  const Nesting nesting(*this);
  const int line = current().line;
  if (nesting_ > kMaxStatementNesting)
    return error(line, "statements are nested too deeply: move the inner ones into a macro");
  Block out;
  while (current().type != TokenType::kEnd) {
    if (current().type != TokenType::kBlockBegin) {
      LS_TRY_VOID(print_or_data(out));
      continue;
    }
    advance();
    if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return is_name(end); }))
      return out;
    LS_TRY_VOID(statement(out));
  }
  if (ends.empty()) return out;
  return error(line, "the template ends inside of this block: '{}' is missing", ends.back());
}

Result<void> Parser::statement(Block& out) {
  const int line = current().line;
  LS_TRY(const std::string name, expect_name());
  LS_TRY(auto stmt, statement_body(name, line));
  LS_TRY_VOID(end_of_block());
  out.push_back(std::move(stmt));
  return {};
}

Result<std::unique_ptr<Stmt>> Parser::statement_body(const std::string& name, int line) {
  if (name == "if") return if_statement(line);
  if (name == "for") return for_statement(line);
  if (name == "set") return set_statement(line);
  if (name == "macro") return macro_statement(line);
  if (name == "call") return call_statement(line);
  if (name == "filter") return filter_statement(line);
  if (name == "with") return with_statement(line);
  if (name == "generation") return scope_statement(line, "endgeneration");
  if (name == "print") return print_statement(line);
  if (name == "break") return loop_control(StmtKind::kBreak, line);
  if (name == "continue") return loop_control(StmtKind::kContinue, line);
  for (const char* refused :
       {"include", "import", "from", "extends", "block", "autoescape", "trans"}) {
    if (name == refused) return error(line, "'{}' is not supported in a chat template", name);
  }
  return error(line, "unknown tag '{}'", name);
}

Result<Tree> parse(std::string_view source, const std::string& where) {
  LS_TRY(std::vector<Token> tokens, tokenize(source, where));
  return Parser(std::move(tokens), where).run();
}

}  // namespace longshore::text::jinja
