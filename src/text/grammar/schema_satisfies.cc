// Whether a value satisfies a schema: for the values of enum and const, which are literals.
#include <algorithm>

#include "text/grammar/schema_document.h"
#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

// References that lead to themselves add nothing beyond.
constexpr int kMaxDepth = 256;

bool same(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return plain_number(a) == plain_number(b);
  if (a.type() != b.type() || a.size() != b.size()) return false;
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin(), same);
  if (!a.is_object()) return a == b;
  return std::all_of(a.items().begin(), a.items().end(), [&](const auto& member) {
    const Json* other = keyword(b, member.key().c_str());
    return other != nullptr && same(member.value(), *other);
  });
}

}  // namespace

void narrow(NumberRange& range, const Json& schema) {
  if (const Json* low = keyword(schema, "minimum")) range.raise({plain_number(*low), false});
  if (const Json* low = keyword(schema, "exclusiveMinimum"))
    range.raise({plain_number(*low), true});
  if (const Json* high = keyword(schema, "maximum")) range.lower({plain_number(*high), false});
  if (const Json* high = keyword(schema, "exclusiveMaximum"))
    range.lower({plain_number(*high), true});
}

size_t length_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0U) != 0x80U; }));
}

bool SchemaDocument::satisfies(const Json& value, const Json& schema, int depth) const {
  if (schema.is_boolean()) return schema.get<bool>();
  if (depth > kMaxDepth) return true;
  if (const Json* constant = keyword(schema, "const");
      constant != nullptr && !same(value, *constant))
    return false;
  if (const Json* list = keyword(schema, "enum")) {
    const bool found =
        std::any_of(list->begin(), list->end(), [&](const Json& one) { return same(value, one); });
    if (!found) return false;
  }
  return fits(value, schema, depth);
}

// All but enum and const.
bool SchemaDocument::fits(const Json& value, const Json& schema, int depth) const {
  if ((json_type(value) & types_of(schema)) == 0) return false;
  if (!fits_references(value, schema, depth)) return false;
  if (value.is_number()) {
    NumberRange range;
    narrow(range, schema);
    return range.contains(plain_number(value));
  }
  if (value.is_string()) return fits_string(value.get_ref<const std::string&>(), schema);
  if (value.is_array()) return fits_array(value, schema, depth);
  return !value.is_object() || fits_object(value, schema, depth);
}

bool SchemaDocument::fits_references(const Json& value, const Json& schema, int depth) const {
  const auto fits = [&](const Json& one) { return satisfies(value, one, depth + 1); };
  if (const Json* ref = keyword(schema, "$ref"); ref != nullptr && !fits(target_of(*ref)))
    return false;
  if (const Json* all = keyword(schema, "allOf");
      all != nullptr && !std::all_of(all->begin(), all->end(), fits))
    return false;
  for (const char* name : {"anyOf", "oneOf"}) {
    const Json* any = keyword(schema, name);
    if (any != nullptr && std::none_of(any->begin(), any->end(), fits)) return false;
  }
  return true;
}

bool SchemaDocument::fits_string(const std::string& value, const Json& schema) const {
  const size_t length = length_of(value);
  if (const Json* low = keyword(schema, "minLength"); low != nullptr && length < count_of(*low))
    return false;
  if (const Json* high = keyword(schema, "maxLength"); high != nullptr && length > count_of(*high))
    return false;
  if (const Json* text = keyword(schema, "pattern");
      text != nullptr && !pattern(*text).accepts(value))
    return false;
  const Json* format = keyword(schema, "format");
  return format == nullptr || format_named(format->get_ref<const std::string&>())->accepts(value);
}

bool SchemaDocument::fits_array(const Json& value, const Json& schema, int depth) const {
  if (const Json* low = keyword(schema, "minItems");
      low != nullptr && value.size() < count_of(*low))
    return false;
  if (const Json* high = keyword(schema, "maxItems");
      high != nullptr && value.size() > count_of(*high))
    return false;
  const Json* first = keyword(schema, "prefixItems");
  const Json* others = keyword(schema, "items");
  for (size_t i = 0; i < value.size(); ++i) {
    const Json* own = first != nullptr && i < first->size() ? &(*first)[i] : others;
    if (own != nullptr && !satisfies(value[i], *own, depth + 1)) return false;
  }
  return true;
}

bool SchemaDocument::fits_object(const Json& value, const Json& schema, int depth) const {
  if (const Json* names = keyword(schema, "required")) {
    for (const Json& name : *names) {
      if (!value.contains(name.get_ref<const std::string&>())) return false;
    }
  }
  const Json* properties = keyword(schema, "properties");
  const Json* others = keyword(schema, "additionalProperties");
  for (const auto& [key, member] : value.items()) {
    const Json* own = properties == nullptr ? nullptr : keyword(*properties, key.c_str());
    if (own == nullptr) own = others;
    if (own != nullptr && !satisfies(member, *own, depth + 1)) return false;
  }
  return true;
}

}  // namespace longshore::text
