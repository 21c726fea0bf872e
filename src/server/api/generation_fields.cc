#include "server/api/generation_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

namespace longshore::server {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
constexpr int64_t kMinInt64 = std::numeric_limits<int64_t>::min();
constexpr size_t kMaxStops = 64;

void read_float(FieldReader& fields, const char* name, float& target) {
  constexpr double kMax = std::numeric_limits<float>::max();
  if (const auto value = fields.number(name))
    target = static_cast<float>(std::clamp(*value, -kMax, kMax));
}

void read_logit_bias(FieldReader& fields, int64_t vocab_size, engine::SamplingParams& sampling) {
  const Json* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  for (const auto& [key, value] : biases->items()) {
    int32_t id = -1;
    const char* end = key.data() + key.size();
    const auto [stopped, status] = std::from_chars(key.data(), end, id);
    const std::string path = fmt::format("logit_bias.{}", key);
    if (status != std::errc() || stopped != end || id < 0 || id >= vocab_size) {
      fields.fault().set(
          path, fmt::format("the key must be a token id in [0, {}), as a string", vocab_size));
    } else if (!value.is_number() || std::abs(value.get<double>()) > 100) {
      fields.fault().set(path, fmt::format("expected a number in [-100, 100], got {}",
                                           value.is_number() ? value.dump() : type_name(value)));
    } else {
      sampling.logit_bias.emplace_back(id, value.get<float>());
    }
  }
}

std::vector<int32_t> read_stop_ids(FieldReader& fields, int64_t vocab_size) {
  std::vector<int32_t> ids;
  const Json* list = fields.list("stop_token_ids");
  if (list == nullptr) return ids;
  for (const Json& item : *list) {
    const bool whole = item.is_number_integer();
    if (!whole || item < 0 || item >= vocab_size) {
      fields.fault().set(fmt::format("stop_token_ids[{}]", ids.size()),
                         fmt::format("expected a token id in [0, {}), got {}", vocab_size,
                                     whole ? item.dump() : type_name(item)));
    }
    ids.push_back(whole ? item.get<int32_t>() : 0);
  }
  return ids;
}

}  // namespace

int64_t context_length(const session::LoadedModel& loaded) {
  return loaded.engine->options().context_length;
}

void check_model(FieldReader& fields, const ApiOptions& options, bool required) {
  const auto name = fields.string("model");
  if (!name && required) fields.fault().set("model", "the field is required");
  if (!name || !options.refuse_other_models || *name == options.served_model) return;
  fields.fault().set({.status = 404,
                      .message = fmt::format("The model `{}` does not exist: this server has `{}`",
                                             *name, options.served_model),
                      .param = "model",
                      .code = "model_not_found"});
}

void read_basic_sampling(FieldReader& fields, engine::SamplingParams& sampling) {
  read_float(fields, "temperature", sampling.temperature);
  read_float(fields, "top_p", sampling.top_p);
  if (const auto top_k = fields.integer("top_k", -1, kMaxInt32))
    sampling.top_k = static_cast<int32_t>(*top_k);
}

void read_more_sampling(FieldReader& fields, int64_t vocab_size, engine::SamplingParams& sampling) {
  read_float(fields, "min_p", sampling.min_p);
  read_float(fields, "repetition_penalty", sampling.repetition_penalty);
  read_float(fields, "presence_penalty", sampling.presence_penalty);
  read_float(fields, "frequency_penalty", sampling.frequency_penalty);
  read_logit_bias(fields, vocab_size, sampling);
  if (const auto seed = fields.integer("seed", kMinInt64, kMaxInt64))
    sampling.seed = static_cast<uint64_t>(*seed);
}

void read_stopping(FieldReader& fields, const session::LoadedModel& loaded,
                   session::CompletionRequest& request) {
  engine::GenerationRequest& generation = request.generation;
  request.stop = string_or_list(fields, "stop");
  if (request.stop.size() > kMaxStops) {
    fields.fault().set(
        "stop", fmt::format("{} strings: at most {} are taken", request.stop.size(), kMaxStops));
  }
  generation.stop_ids = read_stop_ids(fields, loaded.checkpoint->config().vocab_size);
  if (!fields.flag("ignore_eos", false)) {
    const std::vector<int32_t>& eos = loaded.defaults.eos_ids;
    generation.stop_ids.insert(generation.stop_ids.end(), eos.begin(), eos.end());
  } else if (generation.stop_ids.empty()) {
    generation.stop_ids = loaded.defaults.eos_ids;
    generation.ignore_stop_ids = true;
  }
  generation.min_tokens = fields.integer("min_tokens", 0, kMaxInt32).value_or(0);
  const bool keep = fields.flag("no_stop_trim", false);
  request.keep_stop = fields.flag("include_stop_str_in_output", keep) || keep;
  request.skip_special_tokens = fields.flag("skip_special_tokens", true);
  stop_at_special_tokens(*loaded.tokenizer, request);
}

void stop_at_special_tokens(const text::Tokenizer& tokenizer, session::CompletionRequest& request) {
  if (!request.skip_special_tokens) return;
  engine::GenerationRequest& generation = request.generation;
  for (const std::string& stop : request.stop) {
    const auto id = tokenizer.id_of(stop);
    if (!id || !tokenizer.is_special(*id)) continue;
    if (std::exchange(generation.ignore_stop_ids, false)) generation.stop_ids.clear();
    generation.stop_ids.push_back(*id);
  }
}

std::string read_identity(FieldReader& fields, const Ids& ids, const char* prefix,
                          engine::GenerationRequest& generation) {
  if (const auto salt = fields.string("cache_salt")) generation.cache_salt = hash_text(*salt);
  if (fields.integer("priority", kMinInt64, kMaxInt64).value_or(0) != 0) {
    fields.fault().set("priority",
                       "not supported, requests run in the order of arrival: remove it or give 0");
  }
  const auto rid = fields.string("rid");
  const auto request_id = fields.string("request_id");
  if (rid && request_id && *rid != *request_id)
    fields.fault().set("request_id", "rid and request_id differ: give one");
  const std::string id = rid.value_or(request_id.value_or(""));
  if (id.size() > 256) fields.fault().set(rid ? "rid" : "request_id", "longer than 256 bytes");
  return id.empty() ? ids.make(prefix) : id;
}

StreamFields read_stream(FieldReader& fields) {
  StreamFields result;
  result.stream = fields.flag("stream", false);
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return result;
  if (!result.stream) fields.fault().set("stream_options", "only allowed where stream is true");
  FieldReader inner(*options, "stream_options", fields.fault());
  result.include_usage = inner.flag("include_usage", false);
  result.continuous_usage = inner.flag("continuous_usage_stats", false);
  (void)inner.flag("include_obfuscation",
                   false);  // padding against eavesdroppers; the text is the same without
  inner.refuse_the_rest();
  return result;
}

void check_sampling(const engine::SamplingParams& sampling, int64_t vocab_size, Fault& fault) {
  const auto valid = sampling.validate(vocab_size);
  if (valid) return;
  const std::string& message = valid.error().message;  // begins with the field's name
  fault.set({.status = 400,
             .message = message,
             .param = message.substr(0, message.find(' ')),
             .code = {}});
}

bool ends_text(const session::CompletionRequest& request, int32_t id) {
  const engine::GenerationRequest& generation = request.generation;
  if (request.keep_stop || generation.ignore_stop_ids) return false;
  return std::find(generation.stop_ids.begin(), generation.stop_ids.end(), id) !=
         generation.stop_ids.end();
}

std::vector<session::CompletionRequest> choices_of(const session::CompletionRequest& request,
                                                   int64_t n) {
  std::vector<session::CompletionRequest> choices(static_cast<size_t>(n), request);
  for (size_t i = 1; i < choices.size(); ++i) {
    choices[i].generation.sampling.seed = mix_bits(request.generation.sampling.seed + i);
  }
  return choices;
}

}  // namespace longshore::server
