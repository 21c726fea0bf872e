// Objects of JSON Schema: their properties in order, and the names of others.
#include <algorithm>

#include "base/check.h"
#include "text/grammar/schema.h"
#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

constexpr size_t kMaxStates = 50'000;
constexpr size_t kMaxOptional = 500;

}  // namespace

Result<SchemaCompiler::Object> SchemaCompiler::object_of(const Schemas& bases) {
  Object made;
  std::unordered_map<std::string, size_t> places;
  const auto place_of = [&](const std::string& name) -> Property& {
    const auto [at, is_new] = places.emplace(name, made.properties.size());
    if (is_new) made.properties.push_back({name, {}, false});
    return made.properties[at->second];
  };
  for (const Json* schema : bases) {
    if (const Json* own = keyword(*schema, "properties")) {
      for (const auto& member : own->items()) {
        LS_TRY_VOID(hold(bases, 1 + member.key().size() / 16));
        place_of(member.key());
      }
    }
  }
  for (const Json* schema : bases) {
    const Json* names = keyword(*schema, "required");
    if (names == nullptr) continue;
    for (const Json& name : *names) {
      const auto& text = name.get_ref<const std::string&>();
      if (!places.contains(text)) LS_TRY_VOID(hold(bases, 1 + text.size() / 16));
      place_of(text).required = true;
    }
  }
  for (const Json* schema : bases) {
    const Json* own = keyword(*schema, "properties");
    const Json* others = keyword(*schema, "additionalProperties");
    if (others != nullptr && *others == false) made.allows_others = false;
    if (others != nullptr) made.others.push_back(others);
    std::vector<bool> named(made.properties.size(), false);
    if (own != nullptr) {
      for (const auto& [name, property] : own->items()) {
        const size_t place = places.at(name);
        named[place] = true;
        made.properties[place].schemas.push_back(&property);
      }
    }
    if (others == nullptr) continue;
    LS_TRY_VOID(hold(bases, named.size() / 8));
    for (size_t i = 0; i < named.size(); ++i) {
      if (!named[i]) made.properties[i].schemas.push_back(others);
    }
  }
  return made;
}

Result<std::vector<SchemaCompiler::Object>> SchemaCompiler::objects(const Schemas& schemas) {
  LS_TRY(const std::vector<Schemas> ways, expand(schemas));
  std::vector<Object> made;
  for (const Schemas& way : ways) {
    const uint32_t types = types_of(way);
    if ((types & kObjectType) == 0) continue;
    if (literals_of(way).any)
      return wrong(way, "enum and const are not supported for all arguments");
    LS_TRY(Object one, object_of(way));
    made.push_back(std::move(one));
  }
  return made;
}

Result<ExprId> SchemaCompiler::other_key(const std::vector<Property>& properties) {
  std::vector<std::string> names;
  for (const Property& property : properties) names.push_back(property.name);
  std::sort(names.begin(), names.end());
  std::string key = "key";
  for (const std::string& name : names) key += ' ' + plain_json(Json(name));
  const auto known = leaves_.find(key);
  if (known != leaves_.end()) return grammar_.call(known->second);
  if (names.empty()) {
    const RuleId rule = grammar_.add_strings({}, inside_call_);
    leaves_.emplace(key, rule);
    return grammar_.call(rule);
  }
  // As JSON first: the difference of two small machines.
  std::vector<std::string> written;
  for (const std::string& name : names) written.push_back(plain_json(Json(name)));
  static const Machine any = [] {
    auto made = as_json_strings(any_text(), kMaxStates);
    LS_CHECK(made.has_value());
    return std::move(*made);
  }();
  const Machine taken = one_of(std::move(written));
  auto made = subtract(any, taken, 4 * taken.states.size() + 1000);
  if (made && inside_call_) made = without_tags(*made, kMaxStates);
  return machine(key, std::move(made), {});
}

Result<ExprId> SchemaCompiler::object(const Schemas& bases) {
  LS_TRY(const Object own, object_of(bases));
  std::vector<Grammar::Member> members;
  for (const Property& property : own.properties) {
    std::string key = plain_json(Json(property.name));
    if (inside_call_ && without_tags(one_of({key}), key.size() + 2)->empty())
      return wrong(bases, fmt::format("the name {} contains a tag of tool calls", key));
    LS_TRY(const ExprId inner, value(property.schemas));
    const ExprId member = grammar_.sequence({grammar_.text(key + ":"), inner});
    members.push_back({member, property.required});
  }
  size_t optional = 0;  // in a row: each of them may be the next one
  for (const Property& property : own.properties) {
    optional = property.required ? 0 : optional + 1;
    if (optional > kMaxOptional)
      return wrong(bases, fmt::format("more than {} optional properties in a row are not supported",
                                      kMaxOptional));
  }
  std::optional<ExprId> others;
  if (own.allows_others) {
    LS_TRY(const ExprId name, other_key(own.properties));
    LS_TRY(const ExprId inner, value(own.others));
    others = grammar_.sequence({name, grammar_.text(":"), inner});
  }
  return grammar_.sequence(
      {grammar_.text("{"), grammar_.members(members, others), grammar_.text("}")});
}

}  // namespace longshore::text
