#include "cli/prompt_line.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

namespace longshore::cli {
namespace {

using text::Json;

constexpr std::array<std::string_view, 9> kPromptKeys = {"prompt",
                                                         "messages",
                                                         "tools",
                                                         "documents",
                                                         "enable_thinking",
                                                         "clear_thinking",
                                                         "chat_template_kwargs",
                                                         "kwargs",
                                                         "id"};
struct Real {
  std::string_view key;
  std::optional<float> SamplingFlags::*member;
};
constexpr std::array<Real, 6> kReals = {{{"temperature", &SamplingFlags::temperature},
                                         {"top_p", &SamplingFlags::top_p},
                                         {"min_p", &SamplingFlags::min_p},
                                         {"repetition_penalty", &SamplingFlags::repetition_penalty},
                                         {"presence_penalty", &SamplingFlags::presence_penalty},
                                         {"frequency_penalty", &SamplingFlags::frequency_penalty}}};
constexpr std::array<std::string_view, 2> kWholes = {"max_tokens", "top_k"};

bool among(const auto& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

const Real* real(std::string_view key) {
  const auto* found = std::find_if(kReals.begin(), kReals.end(),
                                   [key](const Real& each) { return each.key == key; });
  return found == kReals.end() ? nullptr : found;
}

bool is_override(std::string_view key) {
  return real(key) != nullptr || among(kWholes, key) || key == "logit_bias" || key == "seed" ||
         key == "stop";
}

std::optional<int32_t> token_of(const std::string& key) {
  int32_t id = 0;
  const auto [end, fault] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (fault != std::errc() || end != key.data() + key.size()) return std::nullopt;
  return id;
}

bool is_logit_bias(const Json& value) {
  return value.is_object() &&
         std::all_of(value.items().begin(), value.items().end(), [](const auto& item) {
           return token_of(item.key()).has_value() && item.value().is_number();
         });
}

bool fits_int32(const Json& value) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned())
    return value.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
  return value.get<int64_t>() >= std::numeric_limits<int32_t>::min();
}

// What an override is not, or empty.
std::string_view fault(std::string_view key, const Json& value) {
  if (real(key) != nullptr) return value.is_number() ? "" : "a number";
  if (among(kWholes, key)) return fits_int32(value) ? "" : "a whole number";
  if (key == "logit_bias") return is_logit_bias(value) ? "" : "an object of token ids and numbers";
  if (key == "seed") return value.is_number_unsigned() ? "" : "a whole number of at least 0";
  const auto is_stop = [](const Json& text) {
    return text.is_string() && !text.get_ref<const std::string&>().empty();
  };
  const bool list = value.is_array() && std::all_of(value.begin(), value.end(), is_stop);
  return list || is_stop(value) ? "" : "a string or a list of strings, none of them empty";
}

}  // namespace

Result<void> check_line(const Json& line) {
  for (const auto& [key, value] : line.items()) {
    if (among(kPromptKeys, key)) continue;
    if (!is_override(key)) {
      return fail(ErrorKind::kUsage,
                  "{} is not a key of a prompt: remove it, or put a template's variable into "
                  "chat_template_kwargs",
                  Json(key).dump());
    }
    if (const std::string_view wanted = fault(key, value); !wanted.empty()) {
      return fail(ErrorKind::kUsage, "{} is not {}", key, wanted);
    }
  }
  return {};
}

LineOptions line_options(const Json& line, const SamplingFlags& sampling,
                         const std::vector<std::string>& stop) {
  LineOptions options{Json::object(), sampling, stop};
  for (const auto& [key, value] : line.items()) {
    if (const Real* found = real(key); found != nullptr) {
      options.sampling.*found->member = value.get<float>();
    } else if (key == "logit_bias") {
      for (const auto& [id, bias] : value.items()) {
        options.sampling.logit_bias.emplace_back(*token_of(id), bias.get<float>());
      }
    } else if (key == "top_k") {
      options.sampling.top_k = value.get<int32_t>();
    } else if (key == "max_tokens") {
      options.sampling.max_tokens = value.get<int64_t>();
    } else if (key == "seed") {
      options.sampling.seed = value.get<uint64_t>();
    } else if (key == "stop") {
      options.stop = value.is_string() ? std::vector{value.get<std::string>()}
                                       : value.get<std::vector<std::string>>();
    } else if (key != "id") {
      options.request[key] = value;
    }
  }
  return options;
}

}  // namespace longshore::cli
