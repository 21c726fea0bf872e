#include "text/jinja/template.h"

#include <utility>

#include "text/jinja/ast.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace longshore::text::jinja {
namespace {

using Json = nlohmann::ordered_json;

Result<Value> from_json(const Json& json, int depth);

Result<Value> list_from_json(const Json& json, int depth) {
  std::vector<Value> items;
  items.reserve(json.size());
  for (const Json& element : json) {
    LS_TRY(Value value, from_json(element, depth + 1));
    items.push_back(std::move(value));
  }
  return Value::list(std::move(items));
}

Result<Value> dict_from_json(const Json& json, int depth) {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, element] : json.items()) {
    LS_TRY(Value value, from_json(element, depth + 1));
    dict->set(Value::string(key), std::move(value));
  }
  return Value::object(Kind::kDict, std::move(dict));
}

Result<Value> from_json(const Json& json, int depth) {
  if (depth >= kMaxValueDepth) {
    return fail(ErrorKind::kUsage,
                "a template variable is nested deeper than {} levels: flatten the request",
                kMaxValueDepth);
  }
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      return Value::unsigned_integer(json.get<uint64_t>());
    case Json::value_t::number_float:
      return Value::real(json.get<double>());
    case Json::value_t::string:
      return Value::string(json.get<std::string>());
    case Json::value_t::array:
      return list_from_json(json, depth);
    case Json::value_t::object:
      return dict_from_json(json, depth);
    default:
      return Value::none();
  }
}

}  // namespace

Template::Template(std::shared_ptr<const Tree> tree, std::string where)
    : tree_(std::move(tree)), where_(std::move(where)) {}

Result<Template> Template::compile(std::string_view source, std::string where) {
  LS_TRY(Tree tree, parse(source, where));
  return Template(std::make_shared<const Tree>(std::move(tree)), std::move(where));
}

Result<std::string> Template::render(const Json& variables, const Json& defaults,
                                     const Limits& limits) const {
  if (!variables.is_object())
    return fail(ErrorKind::kUsage, "the template's variables are not a JSON object");
  std::vector<std::pair<int, Value>> globals;
  for (size_t i = 0; i < tree_->symbols.size(); ++i) {
    auto it = variables.find(tree_->symbols[i]);
    if (it == variables.end()) {
      it = defaults.find(tree_->symbols[i]);
      if (it == defaults.end()) continue;
    }
    LS_TRY(Value value, from_json(*it, 0));
    globals.emplace_back(static_cast<int>(i), std::move(value));
  }
  return Interpreter(*tree_, where_, limits).run(std::move(globals));
}

}  // namespace longshore::text::jinja
