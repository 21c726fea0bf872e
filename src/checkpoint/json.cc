#include "checkpoint/json.h"

#include <utility>
#include <vector>

namespace longshore {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxPrintable = 160;

// Builds the document event by event, so that parsing can stop at the first thing that is not
// acceptable.
class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return put(Json(nullptr)); }
  bool boolean(bool value) override { return put(Json(value)); }
  bool number_integer(number_integer_t value) override { return put(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return put(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return put(Json(value)); }
  bool string(string_t& value) override { return put(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (stack_.back()->contains(name)) {
      problem = fmt::format("the key '{}' occurs twice", printable(name));
      return false;
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    problem = fmt::format("not valid JSON at byte {}", position);
    return false;
  }

  Json root;
  std::string problem;

 private:
  Json* place(Json value) {
    if (stack_.empty()) return &(root = std::move(value));
    Json& parent = *stack_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (stack_.size() == kMaxDepth) {
      problem = fmt::format("nested deeper than {} levels", kMaxDepth);
      return false;
    }
    stack_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  // A parent does not grow while a child of it is open, so the pointers stay valid.
  std::vector<Json*> stack_;
  std::string key_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& where) {
  Builder builder;
  bool complete = false;
  try {
    complete = Json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const std::exception&) {
    builder.problem = "not valid JSON";
  }
  if (!complete) {
    return fail(ErrorKind::kModel, "{}: {}: the file is damaged; download it again", where,
                builder.problem.empty() ? "not valid JSON" : builder.problem);
  }
  return std::move(builder.root);
}

std::string printable(std::string_view text) {
  std::string result;
  for (const char c : text.substr(0, kMaxPrintable)) result += c >= 0x20 && c < 0x7f ? c : '?';
  if (text.size() > kMaxPrintable) result += "...";
  return result;
}

}  // namespace longshore
