// JSON Schema to grammar: the texts of the values that satisfy a schema, each in its one form.
//
// The form: compact JSON, an object's properties in the schema's order and others after them,
// numbers without exponent (numbers.h), strings escaped where they must be (strings.h). oneOf is
// read as anyOf. docs/decisions/structured-output.md has the subset. Threading: one thread.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "text/grammar/grammar.h"
#include "text/grammar/schema_document.h"
#include "text/grammar/schema_satisfies.h"

namespace longshore::text {

// Writes the schemas of one document into a grammar.
class SchemaCompiler {
 public:
  // inside_call: strings never contain the tags of tool calls.
  SchemaCompiler(std::shared_ptr<const SchemaDocument> document, Grammar& grammar,
                 bool inside_call = false);

  // Values that satisfy all the schemas, as JSON. kUsage: the keyword and its path.
  using Schemas = std::vector<const Json*>;
  Result<ExprId> value(const Schemas& schemas);

  // An argument as GLM's tool calls write it: a string as bare text, everything else as JSON.
  // text_only: the reader takes the text as it is; otherwise it may take it for JSON, and strings
  // that look like JSON are left out.
  Result<ExprId> argument(const Schemas& schemas, bool text_only);

  // The schemas' objects, a list of properties for each way to satisfy them.
  struct Property {
    std::string name;
    Schemas schemas;
    bool required = false;
  };
  struct Object {
    std::vector<Property> properties;
    Schemas others;  // what properties of other names satisfy
    bool allows_others = true;
  };
  Result<std::vector<Object>> objects(const Schemas& schemas);

  // After the last value(): writes the rules that were put off.
  Result<void> finish();

 private:
  struct Text;
  Result<std::vector<Schemas>> expand(const Schemas& schemas);
  Result<void> expand(Schemas pending, Schemas bases, std::vector<const Json*> choices,
                      std::vector<Schemas>& out);
  Result<ExprId> choice_of(const Schemas& schemas);
  Result<ExprId> base(const Schemas& bases);
  // What the bases are limited to by a const or an enum.
  struct Literals {
    std::vector<const Json*> values;
    const Json* source = nullptr;  // the schema that lists exactly these
    bool any = false;
  };
  // The types that all of them allow.
  [[nodiscard]] static uint32_t types_of(const Schemas& schemas);
  [[nodiscard]] static Literals literals_of(const Schemas& bases);
  Result<ExprId> literals(const Schemas& bases, const std::vector<Json>& values);
  Result<std::vector<Json>> fitting(const Schemas& bases, const Literals& list);
  Result<ExprId> number(const Schemas& bases, bool whole);
  Result<ExprId> string(const Schemas& bases);
  Result<ExprId> bare_string(const Schemas& bases, bool text_only);
  Result<Text> text_of(const Schemas& bases) const;
  Result<ExprId> array(const Schemas& bases);
  Result<ExprId> object(const Schemas& bases);
  Result<Object> object_of(const Schemas& bases);
  // Counts what all ways together hold.
  Result<void> hold(const Schemas& bases, size_t parts);
  Result<ExprId> other_key(const std::vector<Property>& properties);
  Result<ExprId> machine(const std::string& key, Result<Machine> made, const Schemas& bases);
  [[nodiscard]] tl::unexpected<Error> wrong(const Schemas& at, const std::string& what) const;

  std::shared_ptr<const SchemaDocument> document_;
  Grammar& grammar_;
  bool inside_call_;
  std::map<Schemas, RuleId> rules_;  // by their sorted schemas
  std::vector<std::pair<RuleId, Schemas>> put_off_;
  std::unordered_map<std::string, RuleId> leaves_;  // of equal strings and numbers, by a key
  LiteralChecker checker_;
  size_t ways_ = 0;
  size_t bases_ = 0;
  size_t parts_ = 0;
  size_t literal_bytes_ = 0;
};

// The whole of a document: kUsage as above.
Result<Grammar> schema_grammar(Json schema);

}  // namespace longshore::text
