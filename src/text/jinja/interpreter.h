// Walks a syntax tree and writes its text.
//
// Names are looked up when they are used. jinja2 decides earlier which block a name belongs to, so
// there a macro or inner block that reads a variable before the enclosing block's only `set` of it
// sees nothing; here it sees the outer value.
//
// Threading and ownership: one Interpreter per render; the tree outlives it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/loop.h"
#include "text/jinja/runtime.h"

namespace longshore::text::jinja {

class Interpreter final : public Runtime {
 public:
  Interpreter(const Tree& tree, const std::string& where, const Limits& limits);
  ~Interpreter() override;

  // globals: the variables of the render, by symbol.
  Result<std::string> run(std::vector<std::pair<int, Value>> globals);

  Result<Value> call(const Value& callee, Args args) override;
  Value make_namespace(std::shared_ptr<Namespace> space) override;

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  struct Frame;  // counts depth and restores scope_

  // Statements (interpreter.cc). They write to *out_.
  Result<Flow> execute(const Block& block);
  Result<Flow> execute(const Stmt& stmt);
  Result<Flow> dispatch(const Stmt& stmt);
  Result<Flow> run_if(const Stmt& stmt);
  Result<Flow> run_for(const Stmt& stmt);
  Result<void> run_loop(const Stmt& stmt, const Value& iterable, int level);
  Result<Items> loop_items(const Stmt& stmt, const Value& iterable);
  Result<bool> run_iterations(const Stmt& stmt, const Value& loop_value);
  Result<void> run_set(const Stmt& stmt);
  Result<void> run_set_block(const Stmt& stmt);
  Result<void> run_macro(const Stmt& stmt);
  Result<void> run_call_block(const Stmt& stmt);
  Result<void> run_filter_block(const Stmt& stmt);
  Result<Flow> run_with(const Stmt& stmt);
  Result<Flow> run_scope(const Stmt& stmt);
  Result<void> write(const Value& value);
  Result<void> write(std::string_view text);
  Result<void> assign(const Target& target, const Value& value);
  Result<void> assign_attribute(const Target& target, const Value& value);
  // The text that a block writes, in a scope of its own.
  Result<std::string> capture(const Block& block);
  void push_scope();

  // Expressions (evaluate.cc).
  Result<Value> evaluate(const Expr& expr);
  Result<Value> dispatch(const Expr& expr);
  Result<Value> name(const Expr& expr);
  Result<Value> sequence(const Expr& expr);
  Result<Value> dictionary(const Expr& expr);
  Result<Value> subscript(const Expr& expr);
  Result<Value> slice_of(const Value& object, const Expr& part);
  Result<Value> call_expression(const Expr& expr);
  // A filter's result; `input` replaces the innermost operand of a chain that has none.
  Result<Value> filter(const Expr& expr, const Value* input);
  Result<Value> test(const Expr& expr);
  Result<Value> concatenation(const Expr& expr);
  Result<Value> comparison(const Expr& expr);
  Result<Value> conditional(const Expr& expr);
  Result<Value> binary(const Expr& expr);
  Result<Value> optional(const ExprPtr& expr);
  Result<Args> arguments(const Expr& expr);
  Result<void> spread(const Expr& expr, Args& args);

  // Macros (macro.cc).
  Result<Value> call_macro(const Callable& callable, Args args);
  Result<void> bind_parameters(const MacroNode& macro, Args& args);
  Result<void> bind_extras(const MacroNode& macro, Args& args, size_t used);
  Result<Value> call_loop(const Value& loop, Args args);
  std::shared_ptr<Callable> make_macro(const MacroNode& macro);

  // Adds file and line to an error that has none yet.
  tl::unexpected<Error> located(Error error, int line);

  const Tree& tree_;
  const std::string& where_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  int depth_ = 0;
  bool located_ = false;
  // What may refer to itself; emptied at the end.
  std::vector<std::shared_ptr<Scope>> captured_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

struct Interpreter::Frame {
  struct Depth {
    explicit Depth(int& d) : depth(d) { ++depth; }
    ~Depth() { --depth; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    int& depth;
  };
  explicit Frame(Interpreter& i) : depth(i.depth_), interpreter(i), scope(i.scope_) {}
  ~Frame() { interpreter.scope_ = std::move(scope); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  Depth depth;
  Interpreter& interpreter;
  std::shared_ptr<Scope> scope;
};

}  // namespace longshore::text::jinja
