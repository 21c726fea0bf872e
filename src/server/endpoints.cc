#include "server/endpoints.h"

#include <algorithm>
#include <ctime>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "server/api/chat_prompt.h"
#include "server/api/fields.h"
#include "server/api/generation_fields.h"
#include "server/openai/history.h"
#include "server/openai/thinking.h"
#include "session/completion.h"

namespace longshore::server {
namespace {

using text::Json;
using Ids = std::vector<int32_t>;

tl::unexpected<ApiError> bad_field(const char* field, std::string message) {
  return tl::unexpected(ApiError{400, std::move(message), field, ""});
}

// A boolean field; nothing: it is there and no boolean.
std::optional<bool> flag(const Json& body, const char* name, bool otherwise) {
  if (!body.contains(name) || body[name].is_null()) return otherwise;
  if (!body[name].is_boolean()) return std::nullopt;
  return body[name].get<bool>();
}

// What is not known is refused, never ignored.
std::optional<ApiError> unknown_field(const Json& body,
                                      std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : body.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return ApiError{400, fmt::format("{}: unknown field: remove it or correct its name", key), key,
                    "unknown_field"};
  }
  return std::nullopt;
}

ApiResult<Ids> encode(const session::LoadedModel& loaded, const Json& text) {
  if (!text.is_string())
    return bad_field("prompt", "prompt: expected a string or a list of strings");
  auto ids = loaded.tokenizer->encode(text.get_ref<const std::string&>());
  if (!ids) return tl::unexpected(api_error(ids.error()));
  return std::move(*ids);
}

// The fields that make the prompt of a chat, read as /v1/chat/completions reads them.
ApiResult<Ids> encode_messages(const session::LoadedModel& loaded, const Json& body) {
  Fault fault;
  FieldReader fields(body, "", fault);
  fields.ignore({"model", "add_special_tokens", "return_token_strs"});
  ChatPrompt prompt;
  prompt.messages = read_messages(fields);
  Json tools = read_tools(fields);
  const bool offered = read_tool_choice(fields, tools).calls != text::OutputFormat::Calls::kNone;
  if (offered) prompt.tools = std::move(tools);
  prompt.template_variables = read_template_variables(fields);
  prompt.continue_final_message = fields.flag("continue_final_message", false);
  prompt.add_generation_prompt = fields.flag("add_generation_prompt", true);
  fields.refuse_the_rest();
  session::RenderedPrompt rendered = render_prompt(loaded, prompt, "continue_final_message", fault);
  if (fault) return tl::unexpected(fault.error());
  return std::move(rendered.ids);
}

Json token_strings(const session::LoadedModel& loaded, const Ids& ids) {
  Json strings = Json::array();
  for (const int32_t id : ids) strings.push_back(loaded.tokenizer->decode(std::span(&id, 1)));
  return strings;
}

ApiResult<Ids> read_ids(const session::LoadedModel& loaded, const Json& list) {
  Ids ids;
  for (const Json& value : list) {
    const bool fits = value.is_number_unsigned() &&
                      value.get<uint64_t>() < static_cast<uint64_t>(loaded.tokenizer->vocab_size());
    if (!fits) {
      return bad_field("tokens", fmt::format("tokens: expected token ids, integers from 0 to {}",
                                             loaded.tokenizer->vocab_size() - 1));
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

}  // namespace

Json model_entry(const session::LoadedModel& loaded, const ApiOptions& options, int64_t created) {
  return {{"id", options.served_model},
          {"object", "model"},
          {"type", "model"},
          {"display_name", options.served_model},
          {"created", created},
          {"created_at",
           fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(created)))},
          {"owned_by", "longshore"},
          {"root", options.served_model},
          {"max_model_len", context_length(loaded)}};
}

std::string model_list(const Json& entry) {
  const Json list = {{"object", "list"},
                     {"data", Json::array({entry})},
                     {"has_more", false},
                     {"first_id", entry["id"]},
                     {"last_id", entry["id"]}};
  return list.dump();
}

ApiResult<std::string> tokenize(const session::LoadedModel& loaded, const Json& body) {
  const auto strings = flag(body, "return_token_strs", false);
  if (!strings) return bad_field("return_token_strs", "return_token_strs: expected true or false");
  if (!flag(body, "add_special_tokens", true)) {
    return bad_field("add_special_tokens", "add_special_tokens: expected true or false");
  }
  if (body.contains("prompt") == body.contains("messages")) {
    return bad_field("prompt", "give either prompt or messages");
  }
  if (body.contains("prompt")) {
    const auto unknown =
        unknown_field(body, {"model", "prompt", "add_special_tokens", "return_token_strs"});
    if (unknown) return tl::unexpected(*unknown);
  }
  Json answer = {
      {"count", 0}, {"max_model_len", context_length(loaded)}, {"tokens", Json::array()}};
  if (body.contains("prompt") && body["prompt"].is_array()) {
    answer["count"] = Json::array();
    for (const Json& text : body["prompt"]) {
      const auto ids = encode(loaded, text);
      if (!ids) return tl::unexpected(ids.error());
      answer["tokens"].push_back(*ids);
      answer["count"].push_back(ids->size());
      if (*strings) answer["token_strs"].push_back(token_strings(loaded, *ids));
    }
    return answer.dump();
  }
  const auto ids =
      body.contains("prompt") ? encode(loaded, body["prompt"]) : encode_messages(loaded, body);
  if (!ids) return tl::unexpected(ids.error());
  answer["tokens"] = *ids;
  answer["count"] = ids->size();
  if (*strings) answer["token_strs"] = token_strings(loaded, *ids);
  return answer.dump();
}

ApiResult<std::string> detokenize(const session::LoadedModel& loaded, const Json& body) {
  const auto skip = flag(body, "skip_special_tokens", true);
  if (!skip) return bad_field("skip_special_tokens", "skip_special_tokens: expected true or false");
  if (const auto unknown = unknown_field(body, {"model", "tokens", "skip_special_tokens"})) {
    return tl::unexpected(*unknown);
  }
  if (!body.contains("tokens") || !body["tokens"].is_array()) {
    return bad_field("tokens", "tokens: expected a list of token ids");
  }
  const Json& tokens = body["tokens"];
  Json text;
  if (!tokens.empty() && tokens[0].is_array()) {
    text = Json::array();
    for (const Json& list : tokens) {
      if (!list.is_array()) return bad_field("tokens", "tokens: expected lists of token ids only");
      const auto ids = read_ids(loaded, list);
      if (!ids) return tl::unexpected(ids.error());
      text.push_back(loaded.tokenizer->decode(*ids, *skip));
    }
  } else {
    const auto ids = read_ids(loaded, tokens);
    if (!ids) return tl::unexpected(ids.error());
    text = loaded.tokenizer->decode(*ids, *skip);
  }
  return Json{{"text", text}, {"prompt", text}}.dump();
}

std::string offload_report(const session::LoadedModel& loaded, const ApiOptions& options,
                           const offload::StoreReport& experts) {
  const offload::ExpertStore& store = loaded.model->experts();
  const auto per_layer = static_cast<size_t>(store.experts().per_layer());
  // For each MoE layer a string of 0 and 1, an expert each.
  Json resident = Json::array();
  for (size_t first = 0; first < experts.resident.size(); first += per_layer) {
    std::string layer(per_layer, '0');
    for (size_t e = 0; e < per_layer; ++e) layer[e] = experts.resident[first + e] != 0 ? '1' : '0';
    resident.push_back(std::move(layer));
  }
  Json uses = Json::array();
  for (size_t first = 0; first < experts.uses.size(); first += per_layer) {
    const auto* begin = experts.uses.data() + first;
    uses.push_back(std::vector<int64_t>(begin, begin + per_layer));
  }
  Json device = nullptr;
  if (store.pool_bytes() > 0) {
    device = {{"name", loaded.backend->name()},
              {"slots", store.slots()},
              {"slots_used_at_most", experts.slots_used_at_most},
              {"experts", std::count(experts.resident.begin(), experts.resident.end(), 1)},
              {"pool_bytes", store.pool_bytes()}};
  }
  const offload::ExpertCounters& c = experts.counters;
  const Json report = {{"device", device},
                       {"host",
                        {{"experts", store.experts().size()},
                         {"expert_bytes", store.expert_bytes()},
                         {"bytes", store.experts().size() * store.expert_bytes()}}},
                       {"layers", static_cast<int64_t>(store.experts().layers())},
                       {"first_layer", loaded.checkpoint->config().first_k_dense},
                       {"experts_per_layer", per_layer},
                       {"resident", resident},
                       {"uses", uses},
                       {"ceilings",
                        {{"wire_bytes_per_second", experts.wire_ceiling},
                         {"cpu_bytes_per_second", experts.cpu_ceiling},
                         {"dram_bytes_per_second", options.dram_bytes_per_second}}},
                       {"rates",
                        {{"wire_bytes_per_second", experts.wire_bytes_per_second},
                         {"cpu_bytes_per_second", experts.cpu_bytes_per_second}}},
                       {"counters",
                        {{"routes", c.routes},
                         {"routes_on_device", c.routes_on_device},
                         {"routed_experts", c.routed_experts},
                         {"hits", c.hits},
                         {"fetched", c.fetched},
                         {"computed_on_cpu", c.computed_on_cpu},
                         {"shared", c.shared},
                         {"prefetched", c.prefetched},
                         {"prefetched_unused", c.prefetched_unused},
                         {"wire_bytes", c.wire_bytes},
                         {"cpu_bytes", c.cpu_bytes},
                         {"wire_seconds", c.wire_seconds},
                         {"cpu_seconds", c.cpu_seconds},
                         {"handshakes", c.handshakes},
                         {"handshake_seconds", c.handshake_seconds},
                         {"policy_seconds", c.policy_seconds}}}};
  return report.dump();
}

ApiResult<std::string> change_budget(const Json& body,
                                     const std::function<Result<int64_t>(int64_t)>& limit_slots) {
  constexpr double kGiB = 1 << 30;
  constexpr double kMost = 1e6;
  if (const auto unknown = unknown_field(body, {"gpu_expert_gib"})) return tl::unexpected(*unknown);
  const auto given = body.find("gpu_expert_gib");
  const bool number = given != body.end() && given->is_number();
  const double gib = number ? given->get<double>() : -1;
  if (!(gib >= 0 && gib <= kMost)) {
    return bad_field("gpu_expert_gib", "gpu_expert_gib: expected a number of GiB from 0");
  }
  const Result<int64_t> slots = limit_slots(static_cast<int64_t>(gib * kGiB));
  if (!slots) return bad_field("gpu_expert_gib", "gpu_expert_gib: " + slots.error().message);
  return Json{{"gpu_expert_gib", gib}, {"slots", *slots}}.dump();
}

std::string path_list(const ApiOptions& options) {
  return fmt::format(
      "longshore serves {}\n\n"
      "POST /v1/chat/completions        OpenAI\n"
      "POST /v1/completions             OpenAI\n"
      "POST /v1/messages                Anthropic\n"
      "POST /v1/messages/count_tokens   Anthropic\n"
      "POST /tokenize, /detokenize\n"
      "GET  /v1/models\n"
      "GET  /v1/offload                 where the experts are\n"
      "POST /v1/offload/budget          {{\"gpu_expert_gib\": N}} while serving\n"
      "GET  /metrics                    Prometheus\n"
      "GET  /health\n"
      "GET  /                           this list, and to a browser the page\n",
      options.served_model);
}

}  // namespace longshore::server
