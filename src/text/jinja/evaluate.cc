#include <utility>

#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"

namespace longshore::text::jinja {

Result<Value> Interpreter::evaluate(const Expr& expr) {
  if (expr.op == Op::kConst) return expr.constant;
  const Frame::Depth depth(depth_);
  if (depth_ > limits().depth) {
    return located(Error{ErrorKind::kModel,
                         fmt::format("the template nests deeper than {} levels", limits().depth)},
                   expr.line);
  }
  if (auto charged = charge(1); !charged) return located(std::move(charged.error()), expr.line);
  auto value = dispatch(expr);
  if (!value) return located(std::move(value.error()), expr.line);
  return value;
}

Result<Value> Interpreter::dispatch(const Expr& expr) {
  switch (expr.op) {
    case Op::kConst:
      return expr.constant;
    case Op::kName:
      return name(expr);
    case Op::kList:
    case Op::kTuple:
      return sequence(expr);
    case Op::kDict:
      return dictionary(expr);
    case Op::kAttribute: {
      LS_TRY(const Value object, evaluate(*expr.operands[0]));
      return attribute(*this, object, expr.text);
    }
    case Op::kItem:
      return subscript(expr);
    case Op::kSlice:
      return raise("a slice cannot stand here");
    case Op::kCall:
      return call_expression(expr);
    case Op::kFilter:
      return filter(expr, nullptr);
    case Op::kTest:
      return test(expr);
    case Op::kNot: {
      LS_TRY(const Value value, evaluate(*expr.operands[0]));
      return Value::boolean(!value.truthy());
    }
    case Op::kNegate:
    case Op::kPlus: {
      LS_TRY(const Value value, evaluate(*expr.operands[0]));
      return negate(value, expr.op == Op::kNegate);
    }
    case Op::kConcat:
      return concatenation(expr);
    case Op::kCompare:
      return comparison(expr);
    case Op::kAnd:
    case Op::kOr: {
      LS_TRY(Value left, evaluate(*expr.operands[0]));
      if (left.truthy() == (expr.op == Op::kOr)) return left;
      return evaluate(*expr.operands[1]);
    }
    case Op::kConditional:
      return conditional(expr);
    default:
      return binary(expr);
  }
}

Result<Value> Interpreter::name(const Expr& expr) {
  if (const Value* found = scope_->find(expr.symbol)) return *found;
  if (const Builtin* global = find_global(expr.text)) {
    return Value::object(Kind::kCallable, std::make_shared<Callable>(global, Value()));
  }
  return Value::undefined(fmt::format("'{}' is undefined", expr.text));
}

Result<Value> Interpreter::sequence(const Expr& expr) {
  std::vector<Value> items;
  items.reserve(expr.operands.size());
  for (const ExprPtr& operand : expr.operands) {
    LS_TRY(Value value, evaluate(*operand));
    items.push_back(std::move(value));
  }
  return expr.op == Op::kList ? list(std::move(items)) : tuple(std::move(items));
}

Result<Value> Interpreter::dictionary(const Expr& expr) {
  auto out = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < expr.operands.size(); i += 2) {
    LS_TRY(Value key, evaluate(*expr.operands[i]));
    LS_TRY(Value value, evaluate(*expr.operands[i + 1]));
    LS_TRY_VOID(dict_set(*out, std::move(key), std::move(value)));
  }
  return dict(std::move(out));
}

Result<Value> Interpreter::optional(const ExprPtr& expr) {
  if (!expr) return Value();
  return evaluate(*expr);
}

Result<Value> Interpreter::slice_of(const Value& object, const Expr& part) {
  LS_TRY(const Value start, optional(part.operands[0]));
  LS_TRY(const Value stop, optional(part.operands[1]));
  LS_TRY(const Value step, optional(part.operands[2]));
  return slice(*this, object, start, stop, step);
}

Result<Value> Interpreter::subscript(const Expr& expr) {
  LS_TRY(const Value object, evaluate(*expr.operands[0]));
  const Expr& part = *expr.operands[1];
  if (part.op == Op::kSlice) return slice_of(object, part);
  LS_TRY(const Value key, evaluate(part));
  return item(*this, object, key);
}

Result<void> Interpreter::spread(const Expr& expr, Args& args) {
  if (expr.star) {
    LS_TRY(const Value more, evaluate(*expr.star));
    LS_TRY(const Items items, iterate(more));
    LS_TRY_VOID(charge(static_cast<int64_t>(items->items.size())));
    args.positional.insert(args.positional.end(), items->items.begin(), items->items.end());
  }
  if (!expr.double_star) return {};
  LS_TRY(const Value more, evaluate(*expr.double_star));
  if (!more.is(Kind::kDict))
    return raise("argument after ** must be a mapping, not {}", more.type_name());
  for (const auto& [key, value] : more.as_dict().entries) {
    if (!key.is_string()) return raise("keywords must be strings");
    for (const auto& known : args.keyword) {
      if (known.first == key.as_string())
        return raise("got multiple values for keyword argument '{}'", known.first);
    }
    LS_TRY_VOID(charge(static_cast<int64_t>(args.keyword.size())));
    args.keyword.emplace_back(key.as_string(), value);
  }
  return {};
}

// The arguments of a call, filter or test: operands from the second on.
Result<Args> Interpreter::arguments(const Expr& expr) {
  Args args;
  for (size_t i = 1; i < expr.operands.size(); ++i) {
    LS_TRY(Value value, evaluate(*expr.operands[i]));
    args.positional.push_back(std::move(value));
  }
  for (const auto& [name, operand] : expr.keyword) {
    LS_TRY(Value value, evaluate(*operand));
    args.keyword.emplace_back(name, std::move(value));
  }
  LS_TRY_VOID(spread(expr, args));
  return args;
}

Result<Value> Interpreter::call_expression(const Expr& expr) {
  LS_TRY(const Value callee, evaluate(*expr.operands[0]));
  LS_TRY(Args args, arguments(expr));
  auto value = call(callee, std::move(args));
  // A template's own message reaches the user as it is.
  if (!value && value.error().kind == ErrorKind::kUsage) located_ = true;
  return value;
}

Result<Value> Interpreter::filter(const Expr& expr, const Value* input) {
  Value subject;
  if (expr.operands[0] == nullptr) {
    subject = *input;
  } else if (expr.operands[0]->op == Op::kFilter && input != nullptr) {
    LS_TRY(subject, filter(*expr.operands[0], input));
  } else {
    LS_TRY(subject, evaluate(*expr.operands[0]));
  }
  const Builtin* builtin = find_filter(expr.text);
  if (builtin == nullptr) return raise("no filter named '{}'", expr.text);
  LS_TRY(Args args, arguments(expr));
  args.positional.insert(args.positional.begin(), std::move(subject));
  return call_builtin(*this, *builtin, std::move(args));
}

Result<Value> Interpreter::test(const Expr& expr) {
  const Builtin* builtin = find_test(expr.text);
  if (builtin == nullptr) return raise("no test named '{}'", expr.text);
  LS_TRY(Value subject, evaluate(*expr.operands[0]));
  LS_TRY(Args args, arguments(expr));
  args.positional.insert(args.positional.begin(), std::move(subject));
  return call_builtin(*this, *builtin, std::move(args));
}

Result<Value> Interpreter::concatenation(const Expr& expr) {
  std::string out;
  for (const ExprPtr& operand : expr.operands) {
    LS_TRY(const Value value, evaluate(*operand));
    LS_TRY_VOID(append_text(*this, value, out));
  }
  return string(std::move(out));
}

Result<Value> Interpreter::comparison(const Expr& expr) {
  LS_TRY(Value left, evaluate(*expr.operands[0]));
  for (size_t i = 0; i < expr.comparisons.size(); ++i) {
    LS_TRY(Value right, evaluate(*expr.operands[i + 1]));
    LS_TRY(const bool holds, compare(*this, expr.comparisons[i], left, right));
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Result<Value> Interpreter::conditional(const Expr& expr) {
  LS_TRY(const Value condition, evaluate(*expr.operands[1]));
  if (condition.truthy()) return evaluate(*expr.operands[0]);
  if (expr.operands[2]) return evaluate(*expr.operands[2]);
  return Value::undefined(
      "the inline if-expression evaluated to false and no else section was defined");
}

Result<Value> Interpreter::binary(const Expr& expr) {
  LS_TRY(const Value left, evaluate(*expr.operands[0]));
  LS_TRY(const Value right, evaluate(*expr.operands[1]));
  return arithmetic(*this, expr.op, left, right);
}

}  // namespace longshore::text::jinja
