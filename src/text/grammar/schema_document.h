// A JSON Schema as it came, checked: every keyword is one that is enforced or one that only
// describes, every reference has its target.
//
// Source: JSON Schema 2020-12, core and validation; `nullable` is OpenAPI 3.0's. Threading:
// immutable after load.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/grammar/machine.h"
#include "text/grammar/numbers.h"

namespace longshore::text {

// What a schema's base may allow; kInteger without kNumber: whole numbers only.
enum JsonType : uint32_t {
  kNullType = 1,
  kBooleanType = 2,
  kObjectType = 4,
  kArrayType = 8,
  kStringType = 16,
  kIntegerType = 32,
  kNumberType = 64,
  kAnyType = 127,
};
// The type of a value; 1.0 is whole.
[[nodiscard]] uint32_t json_type(const Json& value);

class SchemaDocument {
 public:
  // kUsage: the keyword and its path ("#/properties/a: ...").
  static Result<std::shared_ptr<const SchemaDocument>> load(Json schema);

  [[nodiscard]] const Json& root() const { return root_; }
  [[nodiscard]] const Json& target_of(const Json& ref) const { return *targets_.at(&ref); }
  // "#/properties/a" of a schema in the document.
  [[nodiscard]] std::string path_of(const Json& schema) const;

  // The types that the schema's own keywords allow.
  [[nodiscard]] static uint32_t types_of(const Json& schema);
  // The texts that a `pattern` of the document matches.
  [[nodiscard]] const Machine& pattern(const Json& pattern) const {
    return *patterns_.at(pattern.get_ref<const std::string&>());
  }

 private:
  friend class SchemaChecker;
  struct Place {
    const Json* parent;
    std::string step;
  };

  Json root_;
  std::unordered_map<const Json*, const Json*> targets_;  // of $ref values
  std::unordered_map<const Json*, Place> places_;
  std::unordered_map<std::string, std::shared_ptr<const Machine>> patterns_;
};

// States of a pattern's automaton, at most.
constexpr size_t kMaxPatternStates = 20'000;

// A keyword's value, or nullptr.
[[nodiscard]] const Json* keyword(const Json& schema, const char* name);
// What minimum, maximum and their exclusive forms leave.
void narrow(NumberRange& range, const Json& schema);
// Code points of UTF-8.
[[nodiscard]] size_t length_of(const std::string& text);
// A count such as minItems: whole, not negative, at most UINT32_MAX.
[[nodiscard]] uint32_t count_of(const Json& value);

}  // namespace longshore::text
