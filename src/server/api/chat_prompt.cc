#include "server/api/chat_prompt.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/api/prompt_limit.h"
#include "server/log.h"

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
  if (error.kind == ErrorKind::kUsage) {
    ApiError made = api_error(error);
    made.param = "messages";
    return fault.set(std::move(made));
  }
  // The template's own words name the model's files, which are the log's business.
  log(LogLevel::kWarning, "a request that the chat template does not take: {}", error.message);
  fault.set("messages", "the model's chat template does not take these messages and tools");
}

session::RenderedPrompt with_ids(const session::LoadedModel& loaded, session::RenderedPrompt prompt,
                                 Fault& fault) {
  auto ids = loaded.tokenizer->encode(prompt.text);
  if (!ids) {
    set_template_fault(ids.error(), fault);
    return {};
  }
  prompt.ids = std::move(*ids);
  return prompt;
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
  Json variables = {{"messages", prompt.messages},
                    {"add_generation_prompt", prompt.add_generation_prompt && !continues}};
  if (!prompt.tools.is_null()) variables["tools"] = prompt.tools;
  variables.update(prompt.template_variables);
  auto rendered = session::render_chat_text(loaded, variables);
  if (!rendered) {
    set_template_fault(rendered.error(), fault);
    return {};
  }
  if (!may_fit_context(loaded, rendered->text, "messages", fault)) return {};
  if (!continues) return with_ids(loaded, std::move(*rendered), fault);
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

// Where each id stands among the calls; the views are into them. Of an id that is there twice the
// first place counts.
std::unordered_map<std::string_view, size_t> places_of(const Json& calls) {
  std::unordered_map<std::string_view, size_t> places;
  places.reserve(calls.size());
  size_t place = 0;
  for (const Json& call : calls) {
    const auto id = call.find("id");
    if (id != call.end() && id->is_string())
      places.emplace(id->get_ref<const std::string&>(), place);
    ++place;
  }
  return places;
}

// Sorts the results in messages[begin, end).
std::optional<size_t> sort_run(Json& messages, size_t begin, size_t end) {
  const auto places = places_of(calls_before(messages, begin));
  std::vector<std::pair<size_t, size_t>> order;  // place among the calls, index of the message
  order.reserve(end - begin);
  for (size_t i = begin; i < end; ++i) {
    const auto id = messages[i].find("tool_call_id");
    if (id == messages[i].end() || id->is_null()) return std::nullopt;  // nothing to sort by
    const auto place =
        id->is_string() ? places.find(id->get_ref<const std::string&>()) : places.end();
    if (place == places.end()) return i;
    order.emplace_back(place->second, i);
  }
  std::sort(order.begin(), order.end());  // equal places keep their order by the index
  std::vector<Json> sorted;
  sorted.reserve(order.size());
  for (const auto& [place, index] : order) sorted.push_back(std::move(messages[index]));
  for (size_t i = 0; i < sorted.size(); ++i) messages[begin + i] = std::move(sorted[i]);
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
