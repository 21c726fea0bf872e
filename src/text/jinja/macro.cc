#include <algorithm>
#include <utility>

#include "text/jinja/interpreter.h"
#include "text/jinja/operators.h"
#include "text/jinja/parser.h"

namespace longshore::text::jinja {
namespace {

// Takes the argument of this name out of args, or gives kMissing.
Value take_keyword(Args& args, std::string_view name) {
  for (auto it = args.keyword.begin(); it != args.keyword.end(); ++it) {
    if (it->first != name) continue;
    Value value = std::move(it->second);
    args.keyword.erase(it);
    return value;
  }
  return {};
}

}  // namespace

std::shared_ptr<Callable> Interpreter::make_macro(const MacroNode& macro) {
  auto callable = std::make_shared<Callable>();
  callable->macro = &macro;
  callable->scope = scope_;
  captured_.push_back(scope_);
  return callable;
}

Result<Value> Interpreter::call(const Value& callee, Args args) {
  LS_TRY_VOID(refuse_undefined(callee));
  if (callee.is(Kind::kLoop)) return call_loop(callee, std::move(args));
  if (!callee.is(Kind::kCallable)) return raise("'{}' object is not callable", callee.type_name());
  const auto& callable = callee.as<Callable>();
  if (callable.macro != nullptr) return call_macro(callable, std::move(args));
  if (!callable.self.missing()) args.positional.insert(args.positional.begin(), callable.self);
  return call_builtin(*this, *callable.builtin, std::move(args));
}

Result<Value> Interpreter::call_macro(const Callable& callable, Args args) {
  const MacroNode& macro = *callable.macro;
  const Frame frame(*this);
  if (depth_ > limits().depth)
    return raise("the template nests deeper than {} levels: simplify it", limits().depth);
  scope_ = std::make_shared<Scope>(callable.scope);
  LS_TRY_VOID(bind_parameters(macro, args));
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  auto flow = execute(macro.body);
  out_ = outer;
  if (!flow) return tl::unexpected(std::move(flow.error()));
  return string(std::move(text));
}

Result<void> Interpreter::bind_parameters(const MacroNode& macro, Args& args) {
  const size_t used = std::min(args.positional.size(), macro.parameters.size());
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& parameter = macro.parameters[i];
    Value value = i < used ? args.positional[i] : take_keyword(args, parameter.name);
    if (value.missing() && parameter.otherwise) {
      LS_TRY(value, evaluate(*parameter.otherwise));
    } else if (value.missing()) {
      value = Value::undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    }
    scope_->set(parameter.symbol, std::move(value));
  }
  return bind_extras(macro, args, used);
}

Result<void> Interpreter::bind_extras(const MacroNode& macro, Args& args, size_t used) {
  if (macro.uses_caller) {
    Value caller = take_keyword(args, "caller");
    if (caller.missing()) caller = Value::undefined("No caller defined");
    scope_->set(kCallerSymbol, std::move(caller));
  }
  if (macro.uses_kwargs) {
    auto extra = std::make_shared<Dict>();
    for (auto& [name, value] : args.keyword)
      LS_TRY_VOID(dict_set(*extra, Value::string(name), value));
    scope_->set(kKwargsSymbol, Value::object(Kind::kDict, extra));
  } else if (!args.keyword.empty()) {
    return raise("macro '{}' takes no keyword argument '{}'", macro.name, args.keyword[0].first);
  }
  if (macro.uses_varargs) {
    std::vector<Value> extra(args.positional.begin() + static_cast<int64_t>(used),
                             args.positional.end());
    LS_TRY(Value value, tuple(std::move(extra)));
    scope_->set(kVarargsSymbol, std::move(value));
  } else if (args.positional.size() > macro.parameters.size()) {
    return raise("macro '{}' takes not more than {} argument(s)", macro.name,
                 macro.parameters.size());
  }
  return {};
}

// loop(children) inside of a recursive loop.
Result<Value> Interpreter::call_loop(const Value& loop_value, Args args) {
  const auto& loop = loop_value.as<Loop>();
  if (loop.recursive == nullptr || loop.scope == nullptr) {
    return raise("the loop must have the 'recursive' marker to be called recursively");
  }
  if (args.positional.size() != 1 || !args.keyword.empty())
    return raise("loop() takes one argument");
  const Frame frame(*this);
  scope_ = loop.scope;
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  auto done = run_loop(*loop.recursive, args.positional[0], loop.level + 1);
  out_ = outer;
  if (!done) return tl::unexpected(std::move(done.error()));
  return string(std::move(text));
}

}  // namespace longshore::text::jinja
