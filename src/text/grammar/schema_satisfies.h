// Whether a value satisfies a schema: for the values of enum and const, which are literals.
//
// Every value meets every schema once; a reference that leads back to where it came from adds
// nothing. Ownership: shares the document, to which the values belong. Threading: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/grammar/schema_document.h"

namespace longshore::text {

class LiteralChecker {
 public:
  explicit LiteralChecker(std::shared_ptr<const SchemaDocument> document)
      : document_(std::move(document)) {}

  // Whether the value satisfies all the schemas; `listed` is the one whose own enum or const lists
  // the value, or null. kUsage: more work than a document may make, counted over all calls.
  Result<bool> satisfies_all(const Json& value, const std::vector<const Json*>& schemas,
                             const Json* listed);

 private:
  using Key = std::pair<const Json*, const Json*>;  // value, schema
  struct KeyHash {
    size_t operator()(const Key& key) const {
      const std::hash<const Json*> hash;
      return hash(key.first) * 0x9E3779B97F4A7C15ULL ^ hash(key.second);
    }
  };
  enum class Answer : uint8_t { kOpen, kAssumed, kYes, kNo };

  bool satisfies(const Json& value, const Json& schema);
  bool satisfies_anew(const Json& value, const Json& schema);
  bool fits(const Json& value, const Json& schema);
  bool fits_references(const Json& value, const Json& schema);
  [[nodiscard]] bool fits_string(const std::string& value, const Json& schema) const;
  bool fits_array(const Json& value, const Json& schema);
  bool fits_object(const Json& value, const Json& schema);
  bool spend(size_t checks);
  const std::string& text_of(const Json& value);
  bool lists(const Json& list, const Json& value);

  std::shared_ptr<const SchemaDocument> document_;
  std::unordered_map<Key, Answer, KeyHash> known_;  // of one literal and what is in it
  std::vector<Key> yes_;                            // of known_, in the order they were found
  std::unordered_map<const Json*, std::string> texts_;
  std::unordered_map<const Json*, std::unordered_set<std::string>> lists_;
  size_t checks_ = 0;
  size_t depth_ = 0;
  std::string fault_;  // empty: none
};

}  // namespace longshore::text
