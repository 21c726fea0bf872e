// A compiled template. Threading: immutable; any thread may render.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/jinja/runtime.h"

namespace longshore::text::jinja {

struct Tree;

class Template {
 public:
  // where: the file that errors name.
  static Result<Template> compile(std::string_view source, std::string where);

  // Both objects; defaults holds what variables may leave out. Integers above uint64 have become
  // floats when the JSON was read.
  [[nodiscard]] Result<std::string> render(const nlohmann::ordered_json& variables,
                                           const nlohmann::ordered_json& defaults,
                                           const Limits& limits = {}) const;

 private:
  Template(std::shared_ptr<const Tree> tree, std::string where);
  std::shared_ptr<const Tree> tree_;
  std::string where_;
};

}  // namespace longshore::text::jinja
