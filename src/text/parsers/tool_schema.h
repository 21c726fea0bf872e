// The types of tool arguments: GLM writes every value as bare text, the request's JSON schemas say
// what it means.
//
// Source: JSON Schema 2020-12 for the keywords; only the set of types that a schema allows is
// derived, nothing is validated. Threading: immutable after construction.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

namespace longshore::text {

class ToolSchemas {
 public:
  // tools: an array in OpenAI's form ({"function": {"name", "parameters"}}) or flat ({"name",
  // "parameters" or "input_schema"}); null: none. Entries of another form are skipped.
  explicit ToolSchemas(const Json& tools);

  [[nodiscard]] bool empty() const { return parameters_.empty(); }
  [[nodiscard]] bool knows(std::string_view tool) const { return parameters_.contains(tool); }
  [[nodiscard]] std::vector<std::string> names() const;
  // True if the tool's schema names this parameter.
  [[nodiscard]] bool has_parameter(std::string_view tool, std::string_view parameter) const;

  // True if every text is taken for a string as it stands.
  [[nodiscard]] bool takes_text(std::string_view tool, std::string_view parameter) const;

  // The JSON of a value as the model wrote it. A string where only strings are allowed: verbatim.
  // Where other types are allowed: JSON if it is JSON (of such a type, if strings are allowed too),
  // else a string. Without a schema: JSON if the whole is JSON other than a string.
  [[nodiscard]] std::string to_json(std::string_view tool, std::string_view parameter,
                                    std::string_view value) const;

 private:
  std::map<std::string, Json, std::less<>> parameters_;  // by tool
};

// The JSON of a string; broken UTF-8 becomes U+FFFD.
[[nodiscard]] std::string json_string(std::string_view text);
// Valid JSON that nests no deeper than what readers take without fear.
[[nodiscard]] bool is_json(std::string_view text);

}  // namespace longshore::text
