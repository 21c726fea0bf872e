#include "text/jinja/parser.h"

namespace longshore::text::jinja {
namespace {

std::unique_ptr<Stmt> make_statement(StmtKind kind, int line) {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = line;
  return stmt;
}

}  // namespace

Result<Block> Parser::body_until(std::string_view end) {
  LS_TRY_VOID(end_of_block());
  LS_TRY(Block body, block({end}));
  advance();
  return body;
}

Result<std::unique_ptr<Stmt>> Parser::if_statement(int line) {
  auto stmt = make_statement(StmtKind::kIf, line);
  while (true) {
    LS_TRY(ExprPtr condition, tuple(false, false));
    stmt->conditions.push_back(std::move(condition));
    LS_TRY_VOID(end_of_block());
    LS_TRY(Block body, block({"elif", "else", "endif"}));
    stmt->blocks.push_back(std::move(body));
    if (!skip_name("elif")) break;
  }
  if (skip_name("else")) {
    LS_TRY(Block body, body_until("endif"));
    stmt->blocks.push_back(std::move(body));
  } else {
    advance();
  }
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::for_statement(int line) {
  auto stmt = make_statement(StmtKind::kFor, line);
  LS_TRY(stmt->target, target("in", false));
  if (!skip_name("in")) return error(current().line, "expected 'in' in a for statement");
  LS_TRY(stmt->expr, tuple(false, false, "recursive"));
  if (skip_name("if")) {
    LS_TRY(ExprPtr condition, expression());
    stmt->conditions.push_back(std::move(condition));
  }
  stmt->recursive = skip_name("recursive");
  LS_TRY_VOID(end_of_block());
  ++loops_;
  auto body = block({"else", "endfor"});
  --loops_;
  if (!body) return tl::unexpected(body.error());
  stmt->blocks.push_back(std::move(*body));
  if (skip_name("else")) {
    LS_TRY(Block otherwise, body_until("endfor"));
    stmt->blocks.push_back(std::move(otherwise));
  } else {
    advance();
  }
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::set_statement(int line) {
  auto stmt = make_statement(StmtKind::kSet, line);
  LS_TRY(stmt->target, target({}, true));
  if (skip_operator("=")) {
    LS_TRY(stmt->expr, tuple());
    return stmt;
  }
  stmt->kind = StmtKind::kSetBlock;
  if (stmt->target.tuple) return error(line, "a block set takes one target");
  if (is_operator("|")) {
    LS_TRY(stmt->expr, filter(nullptr));
  }
  LS_TRY(Block body, body_until("endset"));
  stmt->blocks.push_back(std::move(body));
  return stmt;
}

Result<void> Parser::macro_parameters(MacroNode& macro) {
  LS_TRY_VOID(expect_operator("("));
  while (!is_operator(")")) {
    if (!macro.parameters.empty()) LS_TRY_VOID(expect_operator(","));
    const int line = current().line;
    LS_TRY(std::string name, expect_name());
    MacroNode::Parameter parameter{symbol(name), name, nullptr};
    if (skip_operator("=")) {
      LS_TRY(parameter.otherwise, expression());
    } else if (!macro.parameters.empty() && macro.parameters.back().otherwise) {
      return error(line, "the parameter '{}' without default follows one with default", name);
    }
    macro.parameters.push_back(std::move(parameter));
  }
  advance();
  return {};
}

Result<void> Parser::macro_body(MacroNode& macro, std::string_view end) {
  MacroNode* const around = std::exchange(macro_, &macro);
  const int loops = std::exchange(loops_, 0);
  auto body = body_until(end);
  loops_ = loops;
  macro_ = around;
  if (!body) return tl::unexpected(body.error());
  macro.body = std::move(*body);
  if (around != nullptr) {
    around->uses_caller |= macro.uses_caller;
    around->uses_kwargs |= macro.uses_kwargs;
    around->uses_varargs |= macro.uses_varargs;
  }
  return {};
}

Result<std::unique_ptr<Stmt>> Parser::macro_statement(int line) {
  auto stmt = make_statement(StmtKind::kMacro, line);
  stmt->macro = std::make_unique<MacroNode>();
  stmt->macro->line = line;
  LS_TRY(stmt->macro->name, expect_name());
  stmt->macro->symbol = symbol(stmt->macro->name);
  LS_TRY_VOID(macro_parameters(*stmt->macro));
  LS_TRY_VOID(macro_body(*stmt->macro, "endmacro"));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::call_statement(int line) {
  auto stmt = make_statement(StmtKind::kCallBlock, line);
  stmt->macro = std::make_unique<MacroNode>();
  stmt->macro->line = line;
  stmt->macro->name = "caller";
  if (is_operator("(")) LS_TRY_VOID(macro_parameters(*stmt->macro));
  LS_TRY(stmt->expr, expression());
  if (stmt->expr->op != Op::kCall) return error(line, "expected a call in a call block");
  LS_TRY_VOID(macro_body(*stmt->macro, "endcall"));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::filter_statement(int line) {
  auto stmt = make_statement(StmtKind::kFilter, line);
  LS_TRY(stmt->expr, filter(nullptr, true));
  LS_TRY(Block body, body_until("endfilter"));
  stmt->blocks.push_back(std::move(body));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::with_statement(int line) {
  auto stmt = make_statement(StmtKind::kWith, line);
  while (current().type != TokenType::kBlockEnd) {
    if (!stmt->targets.empty()) LS_TRY_VOID(expect_operator(","));
    LS_TRY(Target name, target_part(false));
    LS_TRY_VOID(expect_operator("="));
    LS_TRY(ExprPtr value, expression());
    stmt->targets.push_back(std::move(name));
    stmt->conditions.push_back(std::move(value));
  }
  LS_TRY(Block body, body_until("endwith"));
  stmt->blocks.push_back(std::move(body));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::scope_statement(int line, std::string_view end) {
  auto stmt = make_statement(StmtKind::kScope, line);
  LS_TRY(Block body, body_until(end));
  stmt->blocks.push_back(std::move(body));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::print_statement(int line) {
  auto stmt = make_statement(StmtKind::kOutput, line);
  stmt->expr = make(Op::kConcat, line);
  while (current().type != TokenType::kBlockEnd) {
    if (!stmt->expr->operands.empty()) LS_TRY_VOID(expect_operator(","));
    LS_TRY(ExprPtr value, expression());
    stmt->expr->operands.push_back(std::move(value));
  }
  LS_TRY(stmt->expr, finish(std::move(stmt->expr)));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::loop_control(StmtKind kind, int line) {
  if (loops_ == 0)
    return error(line, "'{}' outside of a loop", kind == StmtKind::kBreak ? "break" : "continue");
  return make_statement(kind, line);
}

Result<Target> Parser::target_part(bool with_namespace) {
  const Nesting nesting(*this);
  if (nesting_ > 150)
    return error(current().line, "targets are nested too deeply: unpack them in steps");
  Target out;
  out.line = current().line;
  if (skip_operator("(")) {
    LS_TRY(out, target({}, with_namespace));
    LS_TRY_VOID(expect_operator(")"));
    return out;
  }
  LS_TRY(const std::string name, expect_name());
  for (const char* reserved : {"true", "false", "none", "True", "False", "None"}) {
    if (name == reserved) return error(out.line, "cannot assign to '{}'", name);
  }
  if (name == "loop" && loops_ > 0)
    return error(out.line, "cannot assign to 'loop' inside of a loop");
  out.symbol = symbol(name);
  if (with_namespace && skip_operator(".")) {
    LS_TRY(out.attribute, expect_name());
  }
  return out;
}

Result<Target> Parser::target(std::string_view end_name, bool with_namespace) {
  LS_TRY(Target first, target_part(with_namespace));
  if (!is_operator(",")) return first;
  Target out;
  out.line = first.line;
  out.tuple = true;
  out.parts.push_back(std::move(first));
  while (skip_operator(",")) {
    if (tuple_end(end_name) || is_operator("=")) break;
    LS_TRY(Target part, target_part(with_namespace));
    out.parts.push_back(std::move(part));
  }
  return out;
}

}  // namespace longshore::text::jinja
