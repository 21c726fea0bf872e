#include "text/grammar/schema_document.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <unordered_set>

#include "base/check.h"
#include "text/grammar/regex.h"
#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxLiteralDepth = 64;

constexpr std::array<std::string_view, 17> kDescribing = {
    "title",       "description",     "default",          "examples",      "example", "$comment",
    "$schema",     "deprecated",      "readOnly",         "writeOnly",     "$anchor", "$defs",
    "definitions", "contentEncoding", "contentMediaType", "contentSchema", "$id"};

constexpr std::array<std::pair<std::string_view, uint32_t>, 7> kTypes = {{
    {"null", kNullType},
    {"boolean", kBooleanType},
    {"object", kObjectType},
    {"array", kArrayType},
    {"string", kStringType},
    {"integer", kIntegerType},
    {"number", kNumberType | kIntegerType},
}};

uint32_t type_named(const Json& name) {
  for (const auto& [known, type] : kTypes) {
    if (name == known) return type;
  }
  return 0;
}

bool is_count(const Json& value) {
  return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= UINT32_MAX &&
         std::floor(value.get<double>()) == value.get<double>();
}

bool nests_within(const Json& value, size_t depth) {
  if (!value.is_structured()) return true;
  if (depth == 0) return false;
  return std::all_of(value.begin(), value.end(),
                     [&](const Json& member) { return nests_within(member, depth - 1); });
}

std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
  };
  std::string made;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0;
    made += escape ? static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return made;
}

// A name in a JSON pointer (RFC 6901).
std::string escaped(const std::string& name) {
  std::string made;
  for (const char c : name) {
    if (c == '~') {
      made += "~0";
    } else if (c == '/') {
      made += "~1";
    } else {
      made += c;
    }
  }
  return made;
}

}  // namespace

const Json* keyword(const Json& schema, const char* name) {
  const auto found = schema.find(name);
  return found == schema.end() ? nullptr : &*found;
}

uint32_t count_of(const Json& value) {
  return static_cast<uint32_t>(value.get<double>());
}

uint32_t json_type(const Json& value) {
  if (value.is_null()) return kNullType;
  if (value.is_boolean()) return kBooleanType;
  if (value.is_object()) return kObjectType;
  if (value.is_array()) return kArrayType;
  if (value.is_string()) return kStringType;
  if (value.is_number_integer()) return kIntegerType;
  return std::floor(value.get<double>()) == value.get<double>() ? kIntegerType : kNumberType;
}

// Walks every schema of the document, and every target of a reference.
class SchemaChecker {
 public:
  explicit SchemaChecker(SchemaDocument& document) : document_(document) {}

  Result<void> check() {
    LS_TRY_VOID(schema(document_.root_, nullptr, "#", 0));
    // Targets may lie anywhere, also where no keyword looks.
    while (!references_.empty()) {
      const auto [ref, at] = references_.back();
      references_.pop_back();
      LS_TRY(const Json* target, resolve(*ref, *at));
      document_.targets_[ref] = target;
      if (!seen_.contains(target)) {
        LS_TRY_VOID(schema(*target, nullptr, ref->get_ref<const std::string&>(), 0));
      }
    }
    return {};
  }

 private:
  template <typename... Args>
  [[nodiscard]] tl::unexpected<Error> wrong(const Json& at, fmt::format_string<Args...> format,
                                            Args&&... args) const {
    return fail(ErrorKind::kUsage, "{}: {}", document_.path_of(at),
                fmt::format(format, std::forward<Args>(args)...));
  }

  Result<void> schema(const Json& given, const Json* parent, std::string step, int depth) {
    if (!seen_.insert(&given).second) return {};
    document_.places_[&given] = {parent, std::move(step)};
    if (given.is_boolean()) return {};
    if (!given.is_object()) return wrong(given, "a schema is an object or a boolean");
    if (depth > kMaxDepth) return wrong(given, "schemas nest deeper than {}", kMaxDepth);
    if (const Json* anchor = keyword(given, "$anchor"); anchor != nullptr && anchor->is_string())
      anchors_.emplace(anchor->get_ref<const std::string&>(), &given);
    for (const auto& [name, value] : given.items()) LS_TRY_VOID(member(given, name, value, depth));
    return {};
  }

  Result<void> member(const Json& at, const std::string& name, const Json& value, int depth) {
    if (name == "properties" || name == "$defs" || name == "definitions") {
      if (!value.is_object()) return wrong(at, "{} is no object", name);
      for (const auto& [key, one] : value.items())
        LS_TRY_VOID(schema(one, &at, name + "/" + escaped(key), depth + 1));
      return {};
    }
    if (name == "items" || name == "additionalProperties") {
      if (value.is_array()) return wrong(at, "items as a list is not supported: use prefixItems");
      return schema(value, &at, name, depth + 1);
    }
    if (name == "allOf" || name == "anyOf" || name == "oneOf" || name == "prefixItems") {
      if (!value.is_array()) return wrong(at, "{} is no list", name);
      if (value.empty() && name != "prefixItems") return wrong(at, "{} is empty", name);
      size_t index = 0;
      for (const Json& one : value)
        LS_TRY_VOID(schema(one, &at, fmt::format("{}/{}", name, index++), depth + 1));
      return {};
    }
    if (name == "$ref") {
      if (!value.is_string()) return wrong(at, "$ref is no string");
      references_.emplace_back(&value, &at);
      return {};
    }
    return plain(at, name, value);
  }

  // Keywords without schemas in them.
  Result<void> plain(const Json& at, const std::string& name, const Json& value) {
    if (name == "type") {
      const bool good = value.is_array() ? std::all_of(value.begin(), value.end(), type_named)
                                         : type_named(value) != 0;
      return good ? Result<void>() : wrong(at, "type {} is not known", value.dump());
    }
    if (name == "required") {
      const bool good =
          value.is_array() &&
          std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); });
      return good ? Result<void>() : wrong(at, "required is no list of strings");
    }
    if (name == "enum" || name == "const") {
      if (name == "enum" && !value.is_array()) return wrong(at, "enum is no list");
      return nests_within(value, kMaxLiteralDepth) ? Result<void>()
                                                   : wrong(at, "{} nests too deep", name);
    }
    if (name == "minItems" || name == "maxItems" || name == "minLength" || name == "maxLength") {
      return is_count(value) ? Result<void>()
                             : wrong(at, "{} is no whole number in [0, 4294967295]", name);
    }
    if (name == "minimum" || name == "maximum" || name == "exclusiveMinimum" ||
        name == "exclusiveMaximum") {
      return value.is_number() ? Result<void>() : wrong(at, "{} is no number", name);
    }
    if (name == "pattern") return pattern(at, value);
    if (name == "nullable") {
      return value.is_boolean() ? Result<void>() : wrong(at, "nullable is no boolean");
    }
    if (name == "format") {
      if (value.is_string() && format_named(value.get_ref<const std::string&>()) != nullptr)
        return {};
      return wrong(at, "format {} is not supported: only {} are", value.dump(), kFormats);
    }
    return describing(at, name, value);
  }

  Result<void> pattern(const Json& at, const Json& value) {
    if (!value.is_string()) return wrong(at, "pattern is no string");
    const auto& text = value.get_ref<const std::string&>();
    if (document_.patterns_.contains(text)) return {};
    auto made = compile_pattern(text, kMaxPatternStates);
    if (!made) return wrong(at, "pattern {}: {}", value.dump(), made.error().message);
    document_.patterns_[text] = std::make_shared<const Machine>(std::move(*made));
    return {};
  }

  [[nodiscard]] Result<void> describing(const Json& at, const std::string& name,
                                        const Json& value) const {
    if (name == "$id" && &at != &document_.root_)
      return wrong(at, "$id below the root is not supported");
    if (name == "$schema" && !(value.is_string() && (value.get_ref<const std::string&>().find(
                                                         "json-schema.org/") != std::string::npos)))
      return wrong(at, "$schema {} is not known", value.dump());
    // Without effect as they are.
    if ((name == "uniqueItems" && value == false) || (name == "minProperties" && value == 0))
      return {};
    const bool known = name.starts_with("x-") ||
                       std::find(kDescribing.begin(), kDescribing.end(), name) != kDescribing.end();
    return known ? Result<void>() : wrong(at, "{} is not supported", name);
  }

  Result<const Json*> resolve(const Json& ref, const Json& at) {
    const auto& text = ref.get_ref<const std::string&>();
    const Json* id = keyword(document_.root_, "$id");
    std::string_view fragment = text;
    if (id != nullptr && id->is_string() && fragment.starts_with(id->get_ref<const std::string&>()))
      fragment.remove_prefix(id->get_ref<const std::string&>().size());
    if (!fragment.empty() && !fragment.starts_with('#'))
      return wrong(at, "$ref {}: only references within the schema (#...) are supported",
                   ref.dump());
    const std::string pointer = percent_decoded(fragment.substr(fragment.empty() ? 0 : 1));
    if (pointer.empty()) return &document_.root_;
    if (pointer.front() != '/') return anchored(pointer, ref, at);
    try {
      const Json::json_pointer where(pointer);
      if (document_.root_.contains(where)) return &document_.root_.at(where);
    } catch (const Json::exception&) {
      // Not a pointer: falls through.
    }
    return wrong(at, "$ref {} points nowhere", ref.dump());
  }

  [[nodiscard]] Result<const Json*> anchored(const std::string& name, const Json& ref,
                                             const Json& at) const {
    const auto found = anchors_.find(name);
    if (found != anchors_.end()) return found->second;
    return wrong(at, "$ref {} points nowhere", ref.dump());
  }

  SchemaDocument& document_;
  std::unordered_set<const Json*> seen_;
  std::unordered_map<std::string, const Json*> anchors_;
  std::vector<std::pair<const Json*, const Json*>> references_;  // and where they stand
};

Result<std::shared_ptr<const SchemaDocument>> SchemaDocument::load(Json schema) {
  auto made = std::make_shared<SchemaDocument>();
  made->root_ = std::move(schema);
  LS_TRY_VOID(SchemaChecker(*made).check());
  return std::shared_ptr<const SchemaDocument>(std::move(made));
}

std::string SchemaDocument::path_of(const Json& schema) const {
  std::string path;
  for (const Json* at = &schema; at != nullptr;) {
    const auto found = places_.find(at);
    if (found == places_.end()) break;
    path = path.empty() ? found->second.step : found->second.step + "/" + path;
    at = found->second.parent;
  }
  return path;
}

uint32_t SchemaDocument::types_of(const Json& schema) {
  const Json* type = keyword(schema, "type");
  if (type == nullptr) return kAnyType;
  uint32_t types = 0;
  if (type->is_array()) {
    for (const Json& name : *type) types |= type_named(name);
  } else {
    types = type_named(*type);
  }
  const Json* nullable = keyword(schema, "nullable");
  if (nullable != nullptr && *nullable == true) types |= kNullType;
  return types;
}

}  // namespace longshore::text
