#include "text/jinja/interpreter.h"

#include <utility>

#include "text/jinja/parser.h"
#include "text/jinja/print.h"

namespace longshore::text::jinja {
namespace {

constexpr int64_t kStepsPerIteration = 4;

}  // namespace

Interpreter::Interpreter(const Tree& tree, const std::string& where, const Limits& limits)
    : Runtime(limits), tree_(tree), where_(where) {}

Interpreter::~Interpreter() {
  for (const auto& scope : captured_) scope->values.clear();
  for (const auto& space : namespaces_) space->values.clear();
}

Result<std::string> Interpreter::run(std::vector<std::pair<int, Value>> globals) {
  std::string out;
  out_ = &out;
  scope_ = std::make_shared<Scope>(nullptr);
  scope_->values = std::move(globals);
  push_scope();
  LS_TRY(const Flow flow, execute(tree_.body));
  (void)flow;
  return out;
}

tl::unexpected<Error> Interpreter::located(Error error, int line) {
  if (!located_) error.message = fmt::format("{}:{}: {}", where_, line, error.message);
  located_ = true;
  return tl::unexpected<Error>(std::move(error));
}

Value Interpreter::make_namespace(std::shared_ptr<Namespace> space) {
  namespaces_.push_back(space);
  return Value::object(Kind::kNamespace, std::move(space));
}

void Interpreter::push_scope() {
  scope_ = std::make_shared<Scope>(scope_);
}

Result<Interpreter::Flow> Interpreter::execute(const Block& block) {
  for (const auto& stmt : block) {
    LS_TRY(const Flow flow, execute(*stmt));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::execute(const Stmt& stmt) {
  const Frame::Depth depth(depth_);
  if (depth_ > limits().depth) {
    return located(
        {ErrorKind::kModel,
         fmt::format("the template nests deeper than {} levels: simplify it", limits().depth)},
        stmt.line);
  }
  if (auto charged = charge(1); !charged) return located(std::move(charged.error()), stmt.line);
  auto flow = dispatch(stmt);
  if (!flow) return located(std::move(flow.error()), stmt.line);
  return flow;
}

Result<Interpreter::Flow> Interpreter::dispatch(const Stmt& stmt) {
  const auto next = [](Result<void> done) -> Result<Flow> {
    return std::move(done).map([] { return Flow::kNext; });
  };
  switch (stmt.kind) {
    case StmtKind::kData:
      return next(write(stmt.data));
    case StmtKind::kOutput: {
      LS_TRY(const Value value, evaluate(*stmt.expr));
      return next(write(value));
    }
    case StmtKind::kIf:
      return run_if(stmt);
    case StmtKind::kFor:
      return run_for(stmt);
    case StmtKind::kSet:
      return next(run_set(stmt));
    case StmtKind::kSetBlock:
      return next(run_set_block(stmt));
    case StmtKind::kMacro:
      return next(run_macro(stmt));
    case StmtKind::kCallBlock:
      return next(run_call_block(stmt));
    case StmtKind::kFilter:
      return next(run_filter_block(stmt));
    case StmtKind::kWith:
      return run_with(stmt);
    case StmtKind::kScope:
      return run_scope(stmt);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Result<void> Interpreter::write(std::string_view text) {
  const auto size = static_cast<int64_t>(out_->size() + text.size());
  if (size > limits().output_bytes)
    return raise("the output exceeds {} bytes: shorten the messages", limits().output_bytes);
  LS_TRY_VOID(charge_bytes(static_cast<int64_t>(text.size())));
  out_->append(text);
  return {};
}

Result<void> Interpreter::write(const Value& value) {
  if (value.is_string()) return write(std::string_view(value.as_string()));
  LS_TRY(const std::string text, to_text(*this, value));
  return write(std::string_view(text));
}

Result<Interpreter::Flow> Interpreter::run_if(const Stmt& stmt) {
  for (size_t i = 0; i < stmt.conditions.size(); ++i) {
    LS_TRY(const Value condition, evaluate(*stmt.conditions[i]));
    if (condition.truthy()) return execute(stmt.blocks[i]);
  }
  if (stmt.blocks.size() > stmt.conditions.size()) return execute(stmt.blocks.back());
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::run_for(const Stmt& stmt) {
  LS_TRY(const Value iterable, evaluate(*stmt.expr));
  LS_TRY_VOID(run_loop(stmt, iterable, 0));
  return Flow::kNext;
}

// The elements that pass the loop's own `if`.
Result<Items> Interpreter::loop_items(const Stmt& stmt, const Value& iterable) {
  LS_TRY(Items items, iterate(iterable));
  if (stmt.conditions.empty()) return items;
  const Frame frame(*this);
  std::vector<Value> kept;
  for (const Value& value : items->items) {
    scope_ = std::make_shared<Scope>(frame.scope);
    scope_->set(kLoopSymbol,
                Value::undefined("'loop' is undefined in the condition of its own for"));
    LS_TRY_VOID(assign(stmt.target, value));
    LS_TRY(const Value condition, evaluate(*stmt.conditions[0]));
    if (condition.truthy()) kept.push_back(value);
  }
  LS_TRY(const Value list_value, list(std::move(kept)));
  return list_value.list_pointer();
}

Result<void> Interpreter::run_loop(const Stmt& stmt, const Value& iterable, int level) {
  if (depth_ >= limits().depth)
    return raise("the template nests deeper than {} levels: simplify it", limits().depth);
  LS_TRY(const Items items, loop_items(stmt, iterable));
  const Frame frame(*this);
  auto loop = std::make_shared<Loop>(items);
  loop->level = level;
  loop->recursive = stmt.recursive ? &stmt : nullptr;
  loop->scope = scope_;
  auto completed = run_iterations(stmt, Value::object(Kind::kLoop, loop));
  loop->scope.reset();
  loop->last_seen.clear();
  if (!completed) return tl::unexpected(std::move(completed.error()));
  if (*completed || stmt.blocks.size() < 2) return {};
  scope_ = std::make_shared<Scope>(frame.scope);
  LS_TRY(const Flow ignored, execute(stmt.blocks[1]));
  (void)ignored;
  return {};
}

// Whether the body ran to its end at least once. As in jinja2, `else` also follows a loop whose
// only iterations ended in break or continue.
Result<bool> Interpreter::run_iterations(const Stmt& stmt, const Value& loop_value) {
  auto& loop = loop_value.as<Loop>();
  const std::shared_ptr<Scope> outer = scope_;
  bool completed = false;
  for (; loop.index < loop.items->items.size(); ++loop.index) {
    LS_TRY_VOID(charge(kStepsPerIteration));
    scope_ = std::make_shared<Scope>(outer);
    scope_->set(kLoopSymbol, loop_value);
    LS_TRY_VOID(assign(stmt.target, loop.items->items[loop.index]));
    LS_TRY(const Flow flow, execute(stmt.blocks[0]));
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNext;
  }
  return completed;
}

Result<void> Interpreter::assign_attribute(const Target& target, const Value& value) {
  const Value* found = scope_->find(target.symbol);
  if (found == nullptr || !found->is(Kind::kNamespace)) {
    return raise("cannot assign attribute on non-namespace object");
  }
  LS_TRY_VOID(charge(static_cast<int64_t>(found->as<Namespace>().values.size())));
  found->as<Namespace>().set(target.attribute, value);
  return {};
}

Result<void> Interpreter::assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) return assign_attribute(target, value);
  if (!target.tuple) {
    scope_->set(target.symbol, value);
    return {};
  }
  LS_TRY(const Items items, iterate(value));
  const size_t have = items->items.size();
  const size_t want = target.parts.size();
  if (have < want) return raise("not enough values to unpack (expected {}, got {})", want, have);
  if (have > want) return raise("too many values to unpack (expected {})", want);
  for (size_t i = 0; i < want; ++i) LS_TRY_VOID(assign(target.parts[i], items->items[i]));
  return {};
}

Result<void> Interpreter::run_set(const Stmt& stmt) {
  LS_TRY(const Value value, evaluate(*stmt.expr));
  return assign(stmt.target, value);
}

Result<std::string> Interpreter::capture(const Block& block) {
  const Frame frame(*this);
  if (depth_ > limits().depth)
    return raise("the template nests deeper than {} levels: simplify it", limits().depth);
  push_scope();
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  auto flow = execute(block);
  out_ = outer;
  if (!flow) return tl::unexpected(std::move(flow.error()));
  return text;
}

Result<void> Interpreter::run_set_block(const Stmt& stmt) {
  LS_TRY(std::string text, capture(stmt.blocks[0]));
  LS_TRY(Value value, string(std::move(text)));
  if (stmt.expr) {
    LS_TRY(value, filter(*stmt.expr, &value));
  }
  return assign(stmt.target, value);
}

Result<void> Interpreter::run_filter_block(const Stmt& stmt) {
  LS_TRY(std::string text, capture(stmt.blocks[0]));
  LS_TRY(const Value input, string(std::move(text)));
  LS_TRY(const Value value, filter(*stmt.expr, &input));
  return write(value);
}

Result<void> Interpreter::run_macro(const Stmt& stmt) {
  scope_->set(stmt.macro->symbol, Value::object(Kind::kCallable, make_macro(*stmt.macro)));
  return {};
}

Result<void> Interpreter::run_call_block(const Stmt& stmt) {
  LS_TRY(const Value callee, evaluate(*stmt.expr->operands[0]));
  LS_TRY(Args args, arguments(*stmt.expr));
  args.keyword.emplace_back("caller", Value::object(Kind::kCallable, make_macro(*stmt.macro)));
  LS_TRY(const Value value, call(callee, std::move(args)));
  return write(value);
}

Result<Interpreter::Flow> Interpreter::run_with(const Stmt& stmt) {
  const Frame frame(*this);
  std::vector<Value> values;
  for (const ExprPtr& expr : stmt.conditions) {
    LS_TRY(Value value, evaluate(*expr));
    values.push_back(std::move(value));
  }
  push_scope();
  for (size_t i = 0; i < values.size(); ++i) LS_TRY_VOID(assign(stmt.targets[i], values[i]));
  return execute(stmt.blocks[0]);
}

Result<Interpreter::Flow> Interpreter::run_scope(const Stmt& stmt) {
  const Frame frame(*this);
  push_scope();
  return execute(stmt.blocks[0]);
}

}  // namespace longshore::text::jinja
