// The checkpoint's chat template: messages to prompt, by a Jinja interpreter (text/jinja/).
//
// Threading: immutable after compile; any thread may render.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longshore::text {

// Keeps the order of keys, which `tojson` writes in the given order.
using Json = nlohmann::ordered_json;

class ChatTemplate {
 public:
  // chat_template.jinja in model_dir, else "chat_template" in tokenizer_config.json. kModel: none,
  // or a syntax error with file, line and reason.
  static Result<ChatTemplate> load(const std::string& model_dir);
  static Result<ChatTemplate> compile(std::string_view source, const std::string& where);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // variables: an object; "messages", "tools", "add_generation_prompt", "enable_thinking" and
  // whatever the caller passes on become template variables. Same output as transformers'
  // apply_chat_template. Errors: kUsage with the template's own message for raise_exception; kModel
  // for a template that fails or exceeds its bounds (steps, output size, recursion).
  [[nodiscard]] Result<std::string> render(const Json& variables) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::text
