// Reads the fields of a request's JSON with their types. The first fault is kept, so that a dialect
// reads all its fields in a row and looks for a fault once.
//
// A JSON null counts as absent. Threading: free of shared state; one request, one thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "text/chat_template.h"

namespace longshore::server {

using text::Json;

// The first fault of a request.
class Fault {
 public:
  // 400 naming the field; kept if it is the first.
  void set(std::string param, std::string_view what);
  void set(ApiError error);
  explicit operator bool() const { return error_.has_value(); }
  [[nodiscard]] const ApiError& error() const { return *error_; }

 private:
  std::optional<ApiError> error_;
};

// "a string", "a list", ...: for "expected a string, got a list".
[[nodiscard]] std::string type_name(const Json& value);

class FieldReader {
 public:
  // object and fault outlive the reader. path: the object's own name ("stream_options"), empty for
  // the body. Anything but an object is a fault, and then every field is absent.
  FieldReader(const Json& object, std::string path, Fault& fault);

  // The value, or nullptr where it is absent or null.
  const Json* get(const char* name);
  bool flag(const char* name, bool otherwise);
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high);
  std::optional<double> number(const char* name);
  std::optional<std::string> string(const char* name);
  const Json* object(const char* name);
  const Json* list(const char* name);

  // A field that is known but not supported: a fault unless absent, null, false or an empty list.
  void refuse(const char* name, std::string_view why);
  void refuse(std::initializer_list<const char*> names, std::string_view why);
  // Fields that by nature change nothing.
  void ignore(std::initializer_list<const char*> names);
  // Every name with a value that none of the above has named is a fault.
  void refuse_the_rest();

  [[nodiscard]] std::string path_of(std::string_view name) const;
  Fault& fault() { return fault_; }

 private:
  const Json* expect(const char* name, bool (*is)(const Json&), const char* type);

  const Json* object_;
  std::string path_;
  Fault& fault_;
  std::set<std::string, std::less<>> known_;
};

// The strings of a field that is a string or a list of strings, none of them empty.
std::vector<std::string> string_or_list(FieldReader& fields, const char* name);

}  // namespace longshore::server
