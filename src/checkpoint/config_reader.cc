#include "checkpoint/config_reader.h"

#include <cmath>
#include <utility>

#include "checkpoint/json.h"

namespace longshore {

using nlohmann::json;

namespace {

constexpr const char* kRemedy = "take config.json from the model's publisher";

}  // namespace

std::string show(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

ConfigReader::ConfigReader(const json& object, std::string where, std::string section)
    : object_(object), where_(std::move(where)), section_(std::move(section)) {}

const json* ConfigReader::find(const char* key) {
  known_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::string ConfigReader::name(const char* key) const {
  return section_.empty() ? key : section_ + "." + key;
}

std::vector<std::string> ConfigReader::unknown_keys() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : object_.items()) {
    if (!known_.contains(key)) unknown.push_back(printable(name(key.c_str())));
  }
  return unknown;
}

tl::unexpected<Error> ConfigReader::wrong(const char* key, std::string_view complaint) const {
  return fail(ErrorKind::kModel, "{}: {} {}; {}", where_, name(key), complaint, kRemedy);
}

tl::unexpected<Error> ConfigReader::unsupported(const char* key, const json& value,
                                                std::string_view supported) const {
  return fail(ErrorKind::kModel, "{}: {} is {}, which is not supported; use a model with {}",
              where_, name(key), show(value), supported);
}

Result<std::optional<int64_t>> ConfigReader::optional_integer(const char* key, int64_t low,
                                                              int64_t high) {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  // An unsigned number above INT64_MAX would wrap to a negative one.
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    return wrong(
        key, fmt::format("is {} but must be a whole number in [{}, {}]", show(*value), low, high));
  }
  return value->get<int64_t>();
}

Result<int64_t> ConfigReader::integer(const char* key, int64_t low, int64_t high) {
  LS_TRY(const auto value, optional_integer(key, low, high));
  if (!value) return wrong(key, "is missing");
  return *value;
}

Result<std::optional<float>> ConfigReader::optional_positive(const char* key, double high) {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : -1;
  if (!(number > 0 && number <= high) || static_cast<float>(number) <= 0) {
    return wrong(key, fmt::format("is {} but must be a number in (0, {}]", show(*value), high));
  }
  return static_cast<float>(number);
}

Result<float> ConfigReader::positive(const char* key, double high) {
  LS_TRY(const auto value, optional_positive(key, high));
  if (!value) return wrong(key, "is missing");
  return *value;
}

Result<std::optional<bool>> ConfigReader::optional_boolean(const char* key) {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    return wrong(key, fmt::format("is {} but must be true or false", show(*value)));
  }
  return value->get<bool>();
}

Result<std::optional<std::vector<std::string>>> ConfigReader::layer_words(const char* key,
                                                                          int64_t layers) {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::vector<std::string> words;
  if (value->is_string()) {
    for (const char letter : value->get_ref<const std::string&>()) words.emplace_back(1, letter);
  } else if (value->is_array()) {
    for (const json& word : *value) {
      if (!word.is_string()) return unsupported(key, word, "one word for every layer");
      words.push_back(word.get<std::string>());
    }
  } else {
    return unsupported(key, *value, "a list with one word for every layer");
  }
  const auto count = static_cast<int64_t>(words.size());
  if (count != layers && count != layers + 1) {
    return wrong(key, fmt::format("names {} layers but num_hidden_layers is {}", count, layers));
  }
  return words;
}

Result<void> ConfigReader::only(const char* key, const json& supported) {
  const json* value = find(key);
  if (value == nullptr || *value == supported) return {};
  return unsupported(key, *value, fmt::format("{} = {}", name(key), show(supported)));
}

}  // namespace longshore
