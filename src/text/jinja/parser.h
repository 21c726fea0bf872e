// Tokens to syntax tree.
//
// Source of the grammar: jinja2's documentation and its observed behaviour (version 3.1).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace longshore::text::jinja {

// The symbols that every tree has, at these numbers.
enum KnownSymbol : int { kLoopSymbol, kCallerSymbol, kVarargsSymbol, kKwargsSymbol };

// Errors: kModel, "where:line: reason".
[[nodiscard]] Result<Tree> parse(std::string_view source, const std::string& where);

// parse()'s worker; expressions and statements are in a file each.
class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& where);
  Result<Tree> run();

 private:
  struct Nesting;

  // Tokens (parser.cc).
  [[nodiscard]] const Token& current() const { return tokens_[at_]; }
  [[nodiscard]] const Token& look(size_t ahead = 1) const;
  void advance();
  [[nodiscard]] bool is_operator(std::string_view text) const;
  [[nodiscard]] bool is_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  Result<void> expect_operator(std::string_view text);
  Result<std::string> expect_name();
  int symbol(const std::string& name);
  template <typename... T>
  tl::unexpected<Error> error(int line, fmt::format_string<T...> format, T&&... args) const {
    return fail(ErrorKind::kModel, "{}:{}: {}", where_, line,
                fmt::format(format, std::forward<T>(args)...));
  }

  // Expressions (parse_expression.cc).
  Result<ExprPtr> expression(bool conditional = true);
  Result<ExprPtr> conditional_expression();
  Result<ExprPtr> or_expression();
  Result<ExprPtr> and_expression();
  Result<ExprPtr> not_expression();
  Result<ExprPtr> comparison();
  Result<ExprPtr> sum();
  Result<ExprPtr> concatenation();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> unary(bool with_filter = true);
  Result<ExprPtr> primary();
  Result<ExprPtr> name_expression();
  Result<ExprPtr> string_expression();
  Result<ExprPtr> list_expression();
  Result<ExprPtr> dict_expression();
  // Expressions with commas between them; one without comma stands for itself.
  Result<ExprPtr> tuple(bool parenthesized = false, bool conditional = true,
                        std::string_view end_name = {});
  [[nodiscard]] bool tuple_end(std::string_view end_name) const;
  Result<ExprPtr> postfix(ExprPtr node);
  Result<ExprPtr> filter_expression(ExprPtr node);
  Result<ExprPtr> subscript(ExprPtr node);
  Result<ExprPtr> subscript_part();
  Result<ExprPtr> call(ExprPtr node);
  // parse_filter.cc; names may have dots in them.
  Result<std::string> dotted_name();
  Result<ExprPtr> filter(ExprPtr node, bool inline_start = false);
  Result<ExprPtr> test(ExprPtr node);
  [[nodiscard]] bool starts_test_argument() const;
  Result<void> call_arguments(Expr& node);
  Result<void> call_argument(Expr& node);
  [[nodiscard]] ExprPtr make(Op op, int line) const;
  Result<ExprPtr> finish(ExprPtr node);  // sets depth and checks it
  Result<ExprPtr> binary(Op op, int line, ExprPtr left, ExprPtr right);

  // Statements (parser.cc, parse_statement.cc).
  Result<Block> block(const std::vector<std::string_view>& ends);
  Result<void> statement(Block& out);
  Result<std::unique_ptr<Stmt>> statement_body(const std::string& name, int line);
  Result<void> end_of_block();
  Result<Block> body_until(
      std::string_view end);  // from the tag's end on; consumes the end tag's name
  Result<std::unique_ptr<Stmt>> if_statement(int line);
  Result<std::unique_ptr<Stmt>> for_statement(int line);
  Result<std::unique_ptr<Stmt>> set_statement(int line);
  Result<std::unique_ptr<Stmt>> macro_statement(int line);
  Result<std::unique_ptr<Stmt>> call_statement(int line);
  Result<std::unique_ptr<Stmt>> filter_statement(int line);
  Result<std::unique_ptr<Stmt>> with_statement(int line);
  Result<std::unique_ptr<Stmt>> scope_statement(int line, std::string_view end);
  Result<std::unique_ptr<Stmt>> print_statement(int line);
  Result<std::unique_ptr<Stmt>> loop_control(StmtKind kind, int line);
  Result<void> print_or_data(Block& out);
  Result<void> macro_parameters(MacroNode& macro);
  Result<void> macro_body(MacroNode& macro, std::string_view end);
  Result<Target> target(std::string_view end_name, bool with_namespace);
  Result<Target> target_part(bool with_namespace);

  std::vector<Token> tokens_;
  std::string where_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;  // around the current statement
  std::unordered_map<std::string, int> symbol_numbers_;
  std::vector<std::string> symbols_;
  MacroNode* macro_ = nullptr;  // the innermost one around
};

struct Parser::Nesting {
  explicit Nesting(Parser& p) : parser(p) { ++parser.nesting_; }
  ~Nesting() { --parser.nesting_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  Parser& parser;
};

}  // namespace longshore::text::jinja
