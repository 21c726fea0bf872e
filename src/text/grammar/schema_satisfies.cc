#include "text/grammar/schema_satisfies.h"

#include <algorithm>

#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

constexpr size_t kMaxChecks = 4'000'000;
constexpr size_t kMaxDepth = 1000;  // of references and values together

// Equal for equal values: whatever the order of properties and the form of numbers.
std::string canonical(const Json& value) {
  if (value.is_array()) {
    std::string made = "[";
    for (const Json& item : value) made += canonical(item) + ',';
    return made += ']';
  }
  if (!value.is_object()) return plain_json(value);
  std::vector<std::string> members;
  for (const auto& [key, member] : value.items())
    members.push_back(plain_json(Json(key)) + ':' + canonical(member));
  std::sort(members.begin(), members.end());
  std::string made = "{";
  for (const std::string& member : members) made += member + ',';
  return made += '}';
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

bool LiteralChecker::spend(size_t checks) {
  checks_ += checks;
  if (checks_ > kMaxChecks && fault_.empty())
    fault_ = fmt::format("enum and const take more than {} checks against the other schemas",
                         kMaxChecks);
  return fault_.empty();
}

const std::string& LiteralChecker::text_of(const Json& value) {
  const auto [at, is_new] = texts_.try_emplace(&value);
  if (is_new) at->second = canonical(value);
  return at->second;
}

bool LiteralChecker::lists(const Json& list, const Json& value) {
  const auto [at, is_new] = lists_.try_emplace(&list);
  if (is_new) {
    for (const Json& one : list) at->second.insert(canonical(one));
  }
  return at->second.contains(text_of(value));
}

Result<bool> LiteralChecker::satisfies_all(const Json& value,
                                           const std::vector<const Json*>& schemas,
                                           const Json* listed) {
  if (!known_.empty()) known_ = {};
  yes_.clear();
  const bool good = std::all_of(schemas.begin(), schemas.end(), [&](const Json* schema) {
    if (schema != listed) return satisfies(value, *schema);
    return spend(1) && fits(value, *schema);
  });
  if (!fault_.empty()) return fail(ErrorKind::kUsage, "{}", fault_);
  return good;
}

// A pair that is being looked at is taken for good (the largest solution). Where it turns out not
// to be, what was found good meanwhile may have leant on it and is forgotten; "no" never leans.
bool LiteralChecker::satisfies(const Json& value, const Json& schema) {
  if (schema.is_boolean()) return schema.get<bool>();
  if (!spend(1)) return false;
  const Key key{&value, &schema};
  const auto [at, is_new] = known_.emplace(key, Answer::kOpen);
  Answer& answer = at->second;
  if (!is_new) {
    if (answer == Answer::kOpen) answer = Answer::kAssumed;
    return answer != Answer::kNo;
  }
  if (depth_ >= kMaxDepth) {
    fault_ = fmt::format("enum and const meet schemas that refer to others more than {} deep",
                         kMaxDepth);
    return false;
  }
  const size_t before = yes_.size();
  ++depth_;
  const bool good = satisfies_anew(value, schema);
  --depth_;
  const bool assumed = answer == Answer::kAssumed;
  answer = good ? Answer::kYes : Answer::kNo;
  if (good) yes_.push_back(key);
  if (good || !assumed) return good;
  for (size_t i = before; i < yes_.size(); ++i) known_.erase(yes_[i]);
  yes_.resize(before);
  return false;
}

bool LiteralChecker::satisfies_anew(const Json& value, const Json& schema) {
  if (const Json* constant = keyword(schema, "const");
      constant != nullptr && text_of(value) != text_of(*constant))
    return false;
  if (const Json* list = keyword(schema, "enum"); list != nullptr && !lists(*list, value))
    return false;
  return fits(value, schema);
}

// All but enum and const.
bool LiteralChecker::fits(const Json& value, const Json& schema) {
  if ((json_type(value) & SchemaDocument::types_of(schema)) == 0) return false;
  if (!fits_references(value, schema)) return false;
  if (value.is_number()) {
    NumberRange range;
    narrow(range, schema);
    return range.contains(plain_number(value));
  }
  if (value.is_string()) return fits_string(value.get_ref<const std::string&>(), schema);
  if (value.is_array()) return fits_array(value, schema);
  return !value.is_object() || fits_object(value, schema);
}

bool LiteralChecker::fits_references(const Json& value, const Json& schema) {
  const auto fits = [&](const Json& one) { return satisfies(value, one); };
  if (const Json* ref = keyword(schema, "$ref");
      ref != nullptr && !fits(document_->target_of(*ref)))
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

bool LiteralChecker::fits_string(const std::string& value, const Json& schema) const {
  const size_t length = length_of(value);
  if (const Json* low = keyword(schema, "minLength"); low != nullptr && length < count_of(*low))
    return false;
  if (const Json* high = keyword(schema, "maxLength"); high != nullptr && length > count_of(*high))
    return false;
  if (const Json* text = keyword(schema, "pattern");
      text != nullptr && !document_->pattern(*text).accepts(value))
    return false;
  const Json* format = keyword(schema, "format");
  return format == nullptr || format_named(format->get_ref<const std::string&>())->accepts(value);
}

bool LiteralChecker::fits_array(const Json& value, const Json& schema) {
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
    if (own != nullptr && !satisfies(value[i], *own)) return false;
  }
  return true;
}

bool LiteralChecker::fits_object(const Json& value, const Json& schema) {
  if (const Json* names = keyword(schema, "required")) {
    if (!spend(names->size() * (1 + value.size() / 8))) return false;
    for (const Json& name : *names) {
      if (!value.contains(name.get_ref<const std::string&>())) return false;
    }
  }
  const Json* properties = keyword(schema, "properties");
  const Json* others = keyword(schema, "additionalProperties");
  for (const auto& [key, member] : value.items()) {
    // Members are found one after the other.
    if (properties != nullptr && !spend(properties->size() / 8)) return false;
    const Json* own = properties == nullptr ? nullptr : keyword(*properties, key.c_str());
    if (own == nullptr) own = others;
    if (own != nullptr && !satisfies(member, *own)) return false;
  }
  return true;
}

}  // namespace longshore::text
