#include "text/parsers/tool_schema.h"

#include <array>
#include <cstdint>
#include <utility>

#include "text/parsers/tag_scan.h"

namespace longshore::text {
namespace {

constexpr int kMaxValueDepth = 128;
constexpr int kMaxSchemaDepth = 16;

// The types that a schema allows; 0: unknown, anything.
using Types = uint32_t;
constexpr Types kString = 1;
constexpr Types kInteger = 2;
constexpr Types kNumber = 4 | kInteger;
constexpr Types kBoolean = 8;
constexpr Types kNull = 16;
constexpr Types kObject = 32;
constexpr Types kArray = 64;

Types type_of_name(std::string_view name) {
  // The second names are no JSON Schema; clients send them nevertheless.
  static constexpr std::array<std::pair<std::string_view, Types>, 13> kNames = {{
      {"string", kString},
      {"integer", kInteger},
      {"number", kNumber},
      {"boolean", kBoolean},
      {"null", kNull},
      {"object", kObject},
      {"array", kArray},
      {"str", kString},
      {"int", kInteger},
      {"float", kNumber},
      {"bool", kBoolean},
      {"dict", kObject},
      {"list", kArray},
  }};
  for (const auto& [known, types] : kNames) {
    if (known == name) return types;
  }
  return 0;
}

Types type_of_value(const Json& value) {
  if (value.is_string()) return kString;
  if (value.is_number_integer()) return kInteger;
  // 4 without the integers: 1.5 is no integer.
  if (value.is_number()) return kNumber & ~kInteger;
  if (value.is_boolean()) return kBoolean;
  if (value.is_null()) return kNull;
  return value.is_object() ? kObject : kArray;
}

class TypeFinder {
 public:
  explicit TypeFinder(const Json& root) : root_(root) {}

  [[nodiscard]] Types types(const Json& schema, int depth = 0) const {
    if (!schema.is_object() || depth > kMaxSchemaDepth) return 0;
    if (const auto ref = schema.find("$ref"); ref != schema.end()) return referred(*ref, depth);
    Types found = own_types(schema);
    if (found == 0) found = combined(schema, depth);
    if (found == 0 && schema.contains("properties")) found = kObject;
    if (found == 0 && schema.contains("items")) found = kArray;
    const auto nullable = schema.find("nullable");  // OpenAPI 3.0
    if (found != 0 && nullable != schema.end() && *nullable == true) found |= kNull;
    return found;
  }

 private:
  [[nodiscard]] Types referred(const Json& ref, int depth) const {
    if (!ref.is_string()) return 0;
    const auto& text = ref.get_ref<const std::string&>();
    if (!text.starts_with("#")) return 0;
    try {
      const Json::json_pointer pointer(text.substr(1));
      return root_.contains(pointer) ? types(root_.at(pointer), depth + 1) : 0;
    } catch (const Json::exception&) {
      return 0;
    }
  }

  [[nodiscard]] static Types own_types(const Json& schema) {
    if (const auto type = schema.find("type"); type != schema.end()) {
      if (type->is_string()) return type_of_name(type->get_ref<const std::string&>());
      Types found = 0;
      if (type->is_array()) {
        for (const Json& name : *type) {
          if (name.is_string()) found |= type_of_name(name.get_ref<const std::string&>());
        }
      }
      return found;
    }
    if (const auto value = schema.find("const"); value != schema.end())
      return type_of_value(*value);
    Types found = 0;
    if (const auto list = schema.find("enum"); list != schema.end() && list->is_array()) {
      for (const Json& value : *list) found |= type_of_value(value);
    }
    return found;
  }

  [[nodiscard]] Types combined(const Json& schema, int depth) const {
    for (const char* key : {"anyOf", "oneOf"}) {
      const auto list = schema.find(key);
      if (list == schema.end() || !list->is_array()) continue;
      Types found = 0;
      for (const Json& option : *list) {
        const Types types_of_option = types(option, depth + 1);
        if (types_of_option == 0) return 0;  // one option allows anything
        found |= types_of_option;
      }
      return found;
    }
    const auto all = schema.find("allOf");
    if (all == schema.end() || !all->is_array()) return 0;
    Types found = 0;
    for (const Json& part : *all) {
      const Types types_of_part = types(part, depth + 1);
      if (types_of_part != 0) found = found == 0 ? types_of_part : found & types_of_part;
    }
    return found;
  }

  const Json& root_;
};

bool nests_too_deep(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '\\' && in_string) ++i;
    if (c == '"') in_string = !in_string;
    if (in_string) continue;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth > kMaxValueDepth) return true;
  }
  return false;
}

Types allowed_types(const Json& parameters, std::string_view parameter) {
  if (!parameters.is_object()) return 0;
  const TypeFinder finder(parameters);
  const auto properties = parameters.find("properties");
  if (properties != parameters.end() && properties->is_object()) {
    const auto schema = properties->find(std::string(parameter));
    if (schema != properties->end()) return finder.types(*schema);
  }
  const auto others = parameters.find("additionalProperties");
  return others == parameters.end() ? 0 : finder.types(*others);
}

}  // namespace

std::string json_string(std::string_view text) {
  return Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool is_json(std::string_view text) {
  // nlohmann::json takes a NUL for the end of its input; no JSON contains one.
  return text.find('\0') == std::string_view::npos && !nests_too_deep(text) && Json::accept(text);
}

ToolSchemas::ToolSchemas(const Json& tools) {
  if (!tools.is_array()) return;
  for (const Json& entry : tools) {
    if (!entry.is_object()) continue;
    const auto inner = entry.find("function");
    const Json& tool = inner != entry.end() && inner->is_object() ? *inner : entry;
    const auto name = tool.find("name");
    if (name == tool.end() || !name->is_string()) continue;
    Json schema;
    for (const char* key : {"parameters", "input_schema"}) {
      if (schema.is_null() && tool.contains(key)) schema = tool[key];
    }
    parameters_.insert_or_assign(name->get<std::string>(), std::move(schema));
  }
}

std::vector<std::string> ToolSchemas::names() const {
  std::vector<std::string> names;
  for (const auto& entry : parameters_) names.push_back(entry.first);
  return names;
}

bool ToolSchemas::has_parameter(std::string_view tool, std::string_view parameter) const {
  const auto entry = parameters_.find(tool);
  if (entry == parameters_.end() || !entry->second.is_object()) return false;
  const auto properties = entry->second.find("properties");
  return properties != entry->second.end() && properties->is_object() &&
         properties->contains(std::string(parameter));
}

bool ToolSchemas::takes_text(std::string_view tool, std::string_view parameter) const {
  const auto entry = parameters_.find(tool);
  return entry != parameters_.end() && allowed_types(entry->second, parameter) == kString;
}

std::string ToolSchemas::to_json(std::string_view tool, std::string_view parameter,
                                 std::string_view value) const {
  const auto entry = parameters_.find(tool);
  const Types allowed = entry == parameters_.end() ? 0 : allowed_types(entry->second, parameter);
  const std::string_view text = trim(value);
  if (allowed == kString || !is_json(text)) return json_string(value);
  // The model's own digits and spacing stay: parsing and writing anew would round long numbers.
  if (allowed != 0 && (allowed & kString) == 0) return std::string(text);
  const Types actual = type_of_value(Json::parse(text));
  const bool taken =
      allowed == 0 ? actual != kString : (actual & allowed) != 0 && actual != kString;
  return taken ? std::string(text) : json_string(value);
}

}  // namespace longshore::text
