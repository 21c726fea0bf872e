#include "server/api/fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

namespace longshore::server {
namespace {

// Clients in languages without integers write 16.0.
bool is_whole(const Json& value) {
  if (value.is_number_integer()) return true;
  if (!value.is_number_float()) return false;
  const auto number = value.get<double>();
  return std::abs(number) <= 9007199254740992.0 && std::trunc(number) == number;
}

bool beyond_int64(const Json& value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// What a client sent may be part of it: no line breaks, no end of it out of sight.
std::string one_line(std::string text) {
  constexpr size_t kMax = 600;
  for (char& c : text) {
    if (static_cast<uint8_t>(c) < ' ') c = ' ';
  }
  if (text.size() <= kMax) return text;
  size_t end = kMax;
  while ((static_cast<uint8_t>(text[end]) & 0xC0U) == 0x80U) --end;
  text.resize(end);
  return text += "...";
}

bool says_nothing(const Json& value) {
  return value.is_null() || value == Json(false) || (value.is_array() && value.empty());
}

}  // namespace

void Fault::set(std::string param, std::string_view what) {
  std::string message = fmt::format("{}: {}", param, what);
  set(ApiError{
      .status = 400, .message = std::move(message), .param = std::move(param), .code = {}});
}

void Fault::set(ApiError error) {
  if (error_) return;
  error.message = one_line(std::move(error.message));
  error.param = one_line(std::move(error.param));
  error_ = std::move(error);
}

std::string type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_float:
      return "a number with a fraction";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    default:
      return "null";
  }
}

FieldReader::FieldReader(const Json& object, std::string path, Fault& fault)
    : object_(&object), path_(std::move(path)), fault_(fault) {
  if (object.is_object()) return;
  static const Json kNothing = Json::object();
  fault_.set(path_.empty() ? "body" : path_,
             fmt::format("expected an object, got {}", type_name(object)));
  object_ = &kNothing;
}

std::string FieldReader::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

const Json* FieldReader::get(const char* name) {
  known_.insert(name);
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

const Json* FieldReader::expect(const char* name, bool (*is)(const Json&), const char* type) {
  const Json* value = get(name);
  if (value == nullptr || is(*value)) return value;
  fault_.set(path_of(name), fmt::format("expected {}, got {}", type, type_name(*value)));
  return nullptr;
}

bool FieldReader::flag(const char* name, bool otherwise) {
  const Json* value = expect(
      name, [](const Json& v) { return v.is_boolean(); }, "a boolean");
  return value == nullptr ? otherwise : value->get<bool>();
}

std::optional<int64_t> FieldReader::integer(const char* name, int64_t low, int64_t high) {
  const Json* value = expect(name, is_whole, "an integer");
  if (value == nullptr) return std::nullopt;
  const auto number =
      beyond_int64(*value) ? std::numeric_limits<int64_t>::max() : value->get<int64_t>();
  if (number >= low && number <= high && !beyond_int64(*value)) return number;
  const std::string range = high == std::numeric_limits<int64_t>::max()
                                ? fmt::format("at least {}", low)
                                : fmt::format("in [{}, {}]", low, high);
  fault_.set(path_of(name), fmt::format("{} is out of range: it must be {}", value->dump(), range));
  return std::nullopt;
}

std::optional<double> FieldReader::number(const char* name) {
  const Json* value = expect(
      name, [](const Json& v) { return v.is_number(); }, "a number");
  if (value == nullptr) return std::nullopt;
  return value->get<double>();
}

std::optional<std::string> FieldReader::string(const char* name) {
  const Json* value = expect(
      name, [](const Json& v) { return v.is_string(); }, "a string");
  if (value == nullptr) return std::nullopt;
  return value->get<std::string>();
}

const Json* FieldReader::object(const char* name) {
  return expect(
      name, [](const Json& v) { return v.is_object(); }, "an object");
}

const Json* FieldReader::list(const char* name) {
  return expect(
      name, [](const Json& v) { return v.is_array(); }, "a list");
}

void FieldReader::refuse(const char* name, std::string_view why) {
  const Json* value = get(name);
  if (value != nullptr && !says_nothing(*value)) fault_.set(path_of(name), why);
}

void FieldReader::refuse(std::initializer_list<const char*> names, std::string_view why) {
  for (const char* name : names) refuse(name, why);
}

void FieldReader::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) known_.insert(name);
}

void FieldReader::refuse_the_rest() {
  for (const auto& [name, value] : object_->items()) {
    if (value.is_null() || known_.contains(name)) continue;
    fault_.set(path_of(name), "unknown field: remove it or correct its name");
  }
}

std::vector<std::string> string_or_list(FieldReader& fields, const char* name) {
  const Json* value = fields.get(name);
  std::vector<std::string> strings;
  if (value == nullptr) return strings;
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array()) {
    fields.fault().set(
        fields.path_of(name),
        fmt::format("expected a string or a list of strings, got {}", type_name(*value)));
    return strings;
  }
  for (const Json& item : list) {
    const std::string path = value->is_string()
                                 ? fields.path_of(name)
                                 : fmt::format("{}[{}]", fields.path_of(name), strings.size());
    if (!item.is_string()) {
      fields.fault().set(path, fmt::format("expected a string, got {}", type_name(item)));
    } else if (item.get_ref<const std::string&>().empty()) {
      fields.fault().set(path, "an empty string would stop at once: remove it");
    }
    strings.push_back(item.is_string() ? item.get<std::string>() : std::string());
  }
  return strings;
}

}  // namespace longshore::server
