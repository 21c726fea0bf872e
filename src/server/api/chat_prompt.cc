#include "server/api/chat_prompt.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace longshore::server {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

bool is_role(const Json& message, const char* role) {
  return message["role"] == role;
}

// Cuts what the template writes after the last message's text. Nothing: the template does not show
// that text.
std::optional<std::string> cut_after_last(std::string text, const Json& last) {
  const std::string_view content = trimmed(last["content"].get_ref<const std::string&>());
  const size_t at = text.rfind(content);
  if (at == std::string::npos) return std::nullopt;
  text.resize(at + content.size());
  return text;
}

void set_template_fault(const Error& error, Fault& fault) {
  ApiError made = api_error(error);
  if (made.status == 400) made.param = "messages";
  fault.set(std::move(made));
}

}  // namespace

session::RenderedPrompt render_prompt(const session::LoadedModel& loaded, const ChatPrompt& prompt,
                                      const char* continuation_field, Fault& fault) {
  const bool continues = prompt.continue_final_message;
  if (fault) return {};
  if (continues && (prompt.messages.empty() || !is_role(prompt.messages.back(), "assistant") ||
                    prompt.messages.back().contains("tool_calls"))) {
    fault.set(continuation_field, "the last message must be an assistant's without tool calls");
    return {};
  }
  Json variables = {{"messages", prompt.messages}, {"add_generation_prompt", !continues}};
  if (!prompt.tools.is_null()) variables["tools"] = prompt.tools;
  variables.update(prompt.template_variables);
  auto rendered = session::render_chat(loaded, variables);
  if (!rendered) {
    set_template_fault(rendered.error(), fault);
    return {};
  }
  if (!continues) return std::move(*rendered);
  auto cut = cut_after_last(std::move(rendered->text), prompt.messages.back());
  auto ids = cut ? loaded.tokenizer->encode(*cut) : Result<std::vector<int32_t>>();
  if (!cut || !ids) {
    fault.set(continuation_field,
              "the chat template does not show the last message's text, so it cannot be continued");
    return {};
  }
  return {.text = std::move(*cut), .ids = std::move(*ids), .starts_in_reasoning = false};
}

namespace {

// The calls of the turn before messages[begin].
const Json& calls_before(const Json& messages, size_t begin) {
  static const Json kNone = Json::array();
  if (begin == 0 || !messages[begin - 1].contains("tool_calls")) return kNone;
  return messages[begin - 1]["tool_calls"];
}

size_t place_of(const Json& id, const Json& calls) {
  size_t place = 0;
  while (place < calls.size() && calls[place].value("id", Json()) != id) ++place;
  return place;
}

// Sorts the results in messages[begin, end).
std::optional<size_t> sort_run(Json& messages, size_t begin, size_t end) {
  const Json calls = calls_before(messages, begin);
  std::vector<std::pair<size_t, Json>> run;
  for (size_t i = begin; i < end; ++i) {
    const Json id = messages[i].value("tool_call_id", Json());
    if (id.is_null()) return std::nullopt;  // nothing to sort by
    run.emplace_back(place_of(id, calls), messages[i]);
    if (run.back().first == calls.size()) return i;
  }
  std::stable_sort(run.begin(), run.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < run.size(); ++i) messages[begin + i] = std::move(run[i].second);
  return std::nullopt;
}

}  // namespace

std::optional<size_t> sort_tool_results(Json& messages) {
  for (size_t begin = 0; begin < messages.size(); ++begin) {
    size_t end = begin;
    while (end < messages.size() && is_role(messages[end], "tool")) ++end;
    if (end == begin) continue;
    if (const auto orphan = sort_run(messages, begin, end)) return orphan;
    begin = end - 1;
  }
  return std::nullopt;
}

}  // namespace longshore::server
