#include "text/chat_template.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include "text/jinja/template.h"
#include "text/utf8.h"

namespace longshore::text {

struct ChatTemplate::Impl {
  jinja::Template compiled;
  Json defaults;  // variables that every render has unless the caller gives them
};

namespace {

// What transformers passes even when its caller does not.
Json standard_variables() {
  return Json{{"tools", nullptr}, {"documents", nullptr}, {"add_generation_prompt", false}};
}

std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::ostringstream text;
  text << in.rdbuf();  // unlike stream iterators, this reports read errors as a state
  if (in.bad()) return std::nullopt;
  return std::move(text).str();
}

Result<Json> read_config(const std::filesystem::path& path) {
  const auto text = read_file(path);
  if (!text) return Json::object();
  Json config = Json::parse(*text, nullptr, false);
  if (!config.is_object()) return fail(ErrorKind::kModel, "{}: not a JSON object", path.string());
  return config;
}

// A special token is a string, or an object with "content".
const Json* token_text(const Json& config, const char* name) {
  const auto it = config.find(name);
  if (it == config.end()) return nullptr;
  if (it->is_string()) return &*it;
  if (!it->is_object()) return nullptr;
  const auto content = it->find("content");
  return content != it->end() && content->is_string() ? &*content : nullptr;
}

void add_special_tokens(const Json& config, Json& variables) {
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    if (const Json* text = token_text(config, name)) variables[name] = *text;
  }
}

// The template named "default" of a list of {name, template}, or the string itself.
const Json* template_text(const Json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end()) return nullptr;
  if (it->is_string()) return &*it;
  if (!it->is_array()) return nullptr;
  for (const Json& entry : *it) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    const auto text = entry.find("template");
    if (text != entry.end() && text->is_string()) return &*text;
  }
  return nullptr;
}

// A message of the template's own (raise_exception) may have any characters; an error has one line.
Error in_one_line(Error error) {
  std::string line;
  for (const char c : error.message) {
    if (c == '\n') {
      line += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      line += fmt::format("\\x{:02x}", c);
    } else {
      line += c;
    }
  }
  error.message = std::move(line);
  return error;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, const std::string& where) {
  if (const auto invalid = find_invalid_utf8(source)) {
    return fail(ErrorKind::kModel,
                "{}: byte {} is not valid UTF-8: save the template as UTF-8 or download it again",
                where, *invalid);
  }
  auto compiled = jinja::Template::compile(source, where).map_error(in_one_line);
  if (!compiled) return tl::unexpected<Error>(std::move(compiled).error());
  return ChatTemplate(std::make_unique<Impl>(Impl{std::move(*compiled), standard_variables()}));
}

Result<ChatTemplate> ChatTemplate::load(const std::string& model_dir) {
  const std::filesystem::path file = std::filesystem::path(model_dir) / "chat_template.jinja";
  const std::filesystem::path config_file =
      std::filesystem::path(model_dir) / "tokenizer_config.json";
  LS_TRY(const Json config, read_config(config_file));
  const auto text = read_file(file);
  const Json* inner = template_text(config);
  if (!text && inner == nullptr) {
    return fail(
        ErrorKind::kModel,
        "{}: no chat template, neither chat_template.jinja nor one in tokenizer_config.json",
        model_dir);
  }
  LS_TRY(ChatTemplate out,
         text ? compile(*text, file.string())
              : compile(inner->get_ref<const std::string&>(), config_file.string()));
  add_special_tokens(config, out.impl_->defaults);
  return out;
}

Result<std::string> ChatTemplate::render(const Json& variables) const {
  return impl_->compiled.render(variables, impl_->defaults).map_error(in_one_line);
}

}  // namespace longshore::text
