// Typed, checked access to the keys of a config.json. An explicit null counts as absent.
//
// Threading: one reader, one thread. The document must outlive the reader.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longshore {

class ConfigReader {
 public:
  // section: empty, or the name of the object inside the file that `object` is ("rope_parameters").
  ConfigReader(const nlohmann::json& object, std::string where, std::string section = {});

  // nullptr when absent. The key counts as known from now on.
  const nlohmann::json* find(const char* key);
  void ignore(const char* key) { known_.insert(key); }
  [[nodiscard]] std::vector<std::string> unknown_keys() const;

  // A whole number in [low, high]; nullopt when absent.
  Result<std::optional<int64_t>> optional_integer(const char* key, int64_t low, int64_t high);
  Result<int64_t> integer(const char* key, int64_t low, int64_t high);
  // A finite number above zero and at most `high`.
  Result<std::optional<float>> optional_positive(const char* key, double high);
  Result<float> positive(const char* key, double high);
  Result<std::optional<bool>> optional_boolean(const char* key);
  // One word per layer, `layers` of them, possibly one more for the MTP layer; a string is taken
  // letter by letter. nullopt when absent.
  Result<std::optional<std::vector<std::string>>> layer_words(const char* key, int64_t layers);

  // The key, where present, must have this value: any other is refused by name.
  Result<void> only(const char* key, const nlohmann::json& supported);
  // `value`, a present key's, is refused by name; supported: what may stand there.
  [[nodiscard]] tl::unexpected<Error> unsupported(const char* key, const nlohmann::json& value,
                                                  std::string_view supported) const;
  // The key is wrong: complaint says how ("is missing").
  [[nodiscard]] tl::unexpected<Error> wrong(const char* key, std::string_view complaint) const;
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  [[nodiscard]] std::string name(const char* key) const;

  const nlohmann::json& object_;
  std::string where_;
  std::string section_;
  std::set<std::string> known_;
};

// A JSON value as it may stand in a message.
std::string show(const nlohmann::json& value);

}  // namespace longshore
