#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "session/loaded_model.h"

namespace longshore::session {
namespace {

using nlohmann::json;

Result<void> read_number(const json& object, const char* key, const std::string& file,
                         float& target) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return {};
  if (!found->is_number())
    return fail(ErrorKind::kModel, "{}: {} is not a number: correct or remove it", file, key);
  target = found->get<float>();
  return {};
}

Result<void> read_eos(const json& object, const std::string& file, int64_t vocab_size,
                      std::vector<int32_t>& ids) {
  const auto found = object.find("eos_token_id");
  if (found == object.end() || found->is_null()) return {};
  const json list = found->is_array() ? *found : json::array({*found});
  ids.clear();
  for (const json& id : list) {
    if (!id.is_number_integer()) {
      return fail(ErrorKind::kModel,
                  "{}: eos_token_id is not a token id or a list of them: correct it", file);
    }
    const bool known = id.is_number_unsigned()
                           ? id.get<uint64_t>() < static_cast<uint64_t>(vocab_size)
                           : id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab_size;
    if (!known) {
      return fail(ErrorKind::kModel,
                  "{}: eos_token_id {} is not in the vocabulary of {}: correct it", file, id.dump(),
                  vocab_size);
    }
    ids.push_back(id.get<int32_t>());
  }
  return {};
}

}  // namespace

Result<GenerationDefaults> load_generation_defaults(const std::string& model_dir,
                                                    const GlmConfig& config) {
  GenerationDefaults defaults;
  defaults.eos_ids = config.eos_token_ids;
  const std::string path = model_dir + "/generation_config.json";
  std::ifstream stream(path);
  if (!stream) return defaults;  // optional in the Hugging Face layout
  std::stringstream text;
  text << stream.rdbuf();
  const json object = json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object())
    return fail(ErrorKind::kModel, "{}: not a JSON object: correct or remove the file", path);
  engine::SamplingParams& sampling = defaults.sampling;
  LS_TRY_VOID(read_number(object, "temperature", path, sampling.temperature));
  LS_TRY_VOID(read_number(object, "top_p", path, sampling.top_p));
  LS_TRY_VOID(read_number(object, "min_p", path, sampling.min_p));
  LS_TRY_VOID(read_number(object, "repetition_penalty", path, sampling.repetition_penalty));
  float top_k = static_cast<float>(sampling.top_k);
  LS_TRY_VOID(read_number(object, "top_k", path, top_k));
  sampling.top_k = static_cast<int32_t>(top_k);
  if (object.value("do_sample", json(true)) == json(false)) sampling.temperature = 0;
  LS_TRY_VOID(read_eos(object, path, config.vocab_size, defaults.eos_ids));
  if (auto valid = sampling.validate(config.vocab_size); !valid) {
    return fail(ErrorKind::kModel, "{}: {}", path, valid.error().message);
  }
  return defaults;
}

}  // namespace longshore::session
