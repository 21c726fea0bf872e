// The JSON Schema Test Suite, draft 2020-12 (tests/data/json-schema-test-suite): every valid
// instance of a supported keyword can be generated, no invalid one can.
//
// An instance counts as generated if its one form is accepted with the members of its objects in
// some order: the schema decides in which.
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/paths.h"
#include "text/grammar/matcher.h"
#include "text/grammar/numbers.h"
#include "text/grammar/schema.h"

namespace longshore::text {
namespace {

const std::string kSuite = longshore::source_dir() + "/tests/data/json-schema-test-suite/";

// Orders of members that are tried for one instance.
constexpr size_t kMostOrders = 5040;

std::vector<std::string> forms_of(const Json& value) {
  if (!value.is_structured()) return {plain_json(value)};
  std::vector<std::pair<std::string, Json>> members;
  for (const auto& [key, member] : value.items()) members.emplace_back(key, member);
  std::vector<size_t> order(members.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::set<std::string> forms;
  do {
    std::vector<std::string> begun(1, value.is_object() ? "{" : "[");
    for (const size_t i : order) {
      std::vector<std::string> longer;
      for (const std::string& text : begun) {
        for (const std::string& form : forms_of(members[i].second)) {
          std::string made = text + (text.size() > 1 ? "," : "");
          if (value.is_object()) made += plain_json(Json(members[i].first)) + ":";
          longer.push_back(made + form);
        }
      }
      begun = std::move(longer);
    }
    for (const std::string& text : begun) forms.insert(text + (value.is_object() ? "}" : "]"));
  } while (value.is_object() && forms.size() < kMostOrders &&
           std::next_permutation(order.begin(), order.end()));
  return {forms.begin(), forms.end()};
}

bool generates(const Automaton& automaton, const Json& value) {
  const std::vector<std::string> forms = forms_of(value);
  return std::any_of(forms.begin(), forms.end(), [&](const std::string& form) {
    Matcher matcher(automaton);
    return matcher.push_all(form) && matcher.ended();
  });
}

struct Exclusion {
  const char* file;
  const char* group;
  const char* test;
  const char* reason;
};

constexpr const char* kAsserted = "the supported formats are enforced, not only noted";
constexpr const char* kLeapSecond = "no leap seconds are written: most readers refuse them";
constexpr const char* kCapitals = "T and Z have one form, the capital letter";
constexpr const char* kOneOf = "oneOf is read as anyOf";

const std::vector<Exclusion> kExclusions = {
    {"format", "email format", "invalid email string is only an annotation by default", kAsserted},
    {"format", "date format", "invalid date string is only an annotation by default", kAsserted},
    {"format", "date-time format", "invalid date-time string is only an annotation by default",
     kAsserted},
    {"format", "uuid format", "invalid uuid string is only an annotation by default", kAsserted},
    {"format/date-time", "validation of date-time strings",
     "a valid date-time with a leap second, UTC", kLeapSecond},
    {"format/date-time", "validation of date-time strings",
     "a valid date-time with a leap second, with minus offset", kLeapSecond},
    {"format/date-time", "validation of date-time strings", "case-insensitive T and Z", kCapitals},
    {"oneOf", "oneOf", "both oneOf valid", kOneOf},
    {"oneOf", "oneOf with base schema", "both oneOf valid", kOneOf},
    {"oneOf", "oneOf with boolean schemas, all true", "any value is invalid", kOneOf},
    {"oneOf", "oneOf with boolean schemas, more than one true", "any value is invalid", kOneOf},
    {"oneOf", "oneOf complex types", "both oneOf valid (complex)", kOneOf},
    {"oneOf", "oneOf with empty schema", "both valid - invalid", kOneOf},
    {"oneOf", "oneOf with required", "both valid - invalid", kOneOf},
    {"oneOf", "oneOf with missing optional property", "both oneOf valid", kOneOf}};

const Exclusion* exclusion(const std::string& file, const std::string& group,
                           const std::string& test) {
  for (const Exclusion& one : kExclusions) {
    if (file == one.file && group == one.group && test == one.test) return &one;
  }
  return nullptr;
}

struct Counts {
  int passed = 0;
  int refused = 0;
  int excluded = 0;
  int failed = 0;
};

Json read(const std::string& path) {
  std::ifstream stream(path);
  return Json::parse(stream);
}

Counts run(const std::string& file, const std::string& path, std::set<const Exclusion*>& used) {
  Counts counts;
  for (const Json& group : read(path)) {
    const auto name = group["description"].get<std::string>();
    const auto grammar = schema_grammar(group["schema"]);
    const auto automaton =
        grammar ? Automaton::compile(*grammar) : tl::unexpected<Error>(grammar.error());
    // A schema that nothing satisfies is refused as well.
    const bool nothing = !automaton && automaton.error().message.ends_with(": no text at all fits");
    for (const Json& test : group["tests"]) {
      const auto title = test["description"].get<std::string>();
      if (!automaton && !nothing) {
        ++counts.refused;
        EXPECT_THAT(automaton.error().message, testing::HasSubstr(": ")) << file << ": " << name;
        continue;
      }
      const bool valid = test["valid"].get<bool>();
      const bool made = !nothing && generates(**automaton, test["data"]);
      if (made == valid) {
        ++counts.passed;
      } else if (exclusion(file, name, title) != nullptr) {
        ++counts.excluded;
        used.insert(exclusion(file, name, title));
      } else {
        ++counts.failed;
        ADD_FAILURE() << file << ": " << name << ": " << title << "\n  schema "
                      << group["schema"].dump() << "\n  instance " << plain_json(test["data"])
                      << (valid ? " is valid" : " is not valid");
      }
    }
    if (!automaton && !nothing && ::getenv("LONGSHORE_SUITE_TABLE") != nullptr)
      std::printf("refused: %s: %s: %s\n", file.c_str(), name.c_str(),
                  automaton.error().message.c_str());
  }
  return counts;
}

TEST(SchemaSuite, GeneratesValidInstancesAndNoOthers) {
  std::map<std::string, std::string> files;
  for (const char* folder : {"", "format/"}) {
    for (const auto& entry : std::filesystem::directory_iterator(kSuite + folder)) {
      if (entry.path().extension() == ".json")
        files[folder + entry.path().stem().string()] = entry.path().string();
    }
  }
  ASSERT_GT(files.size(), 20U);
  std::set<const Exclusion*> used;
  const bool table = ::getenv("LONGSHORE_SUITE_TABLE") != nullptr;
  for (const auto& [file, path] : files) {
    const Counts counts = run(file, path, used);
    if (table) {
      std::printf("| %s | %d | %d | %d | %d |\n", file.c_str(), counts.passed, counts.refused,
                  counts.excluded, counts.failed);
    }
  }
  EXPECT_EQ(used.size(), kExclusions.size()) << "an exclusion that excludes nothing";
}

}  // namespace
}  // namespace longshore::text
