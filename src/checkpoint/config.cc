#include "checkpoint/config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/json.h"

namespace longshore {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
// Far above any real model, and small enough that every product of sizes fits 64 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxExperts = int64_t{1} << 16;
constexpr int64_t kMaxAllExperts = int64_t{1} << 20;  // over all layers
constexpr int64_t kMaxPositions = int64_t{1} << 30;

// Bookkeeping of transformers and of training that no forward pass reads.
constexpr std::array kHarmless = {"attention_dropout",
                                  "auto_map",
                                  "bos_token_id",
                                  "decoder_start_token_id",
                                  "ep_size",
                                  "id2label",
                                  "initializer_range",
                                  "is_decoder",
                                  "label2id",
                                  "max_length",
                                  "_name_or_path",
                                  "name_or_path",
                                  "output_attentions",
                                  "output_hidden_states",
                                  "output_router_logits",
                                  "pad_token_id",
                                  "pretraining_tp",
                                  "problem_type",
                                  "return_dict",
                                  "router_aux_loss_coef",
                                  "aux_loss_alpha",
                                  "seq_aux",
                                  "sep_token_id",
                                  "transformers_version",
                                  "unk_token_id",
                                  "use_cache",
                                  "_commit_hash",
                                  "_attn_implementation",
                                  "chunk_size_feed_forward",
                                  "task_specific_params",
                                  "tokenizer_class"};

struct SizeKey {
  const char* key;
  int64_t GlmConfig::*field;
  int64_t low;
  int64_t high;
};

constexpr std::array kSizes = {
    SizeKey{"vocab_size", &GlmConfig::vocab_size, 1, kMaxVocabulary},
    SizeKey{"hidden_size", &GlmConfig::hidden_size, 1, kMaxWidth},
    SizeKey{"num_hidden_layers", &GlmConfig::num_layers, 1, kMaxLayers},
    SizeKey{"intermediate_size", &GlmConfig::intermediate_size, 1, kMaxWidth},
    SizeKey{"moe_intermediate_size", &GlmConfig::moe_intermediate_size, 1, kMaxWidth},
    SizeKey{"n_routed_experts", &GlmConfig::num_experts, 1, kMaxExperts},
    SizeKey{"num_experts_per_tok", &GlmConfig::experts_per_token, 1, kMaxExperts},
    SizeKey{"n_shared_experts", &GlmConfig::num_shared_experts, 1, 1024},
    SizeKey{"num_attention_heads", &GlmConfig::num_heads, 1, kMaxHeads},
    SizeKey{"q_lora_rank", &GlmConfig::q_lora_rank, 1, kMaxWidth},
    SizeKey{"kv_lora_rank", &GlmConfig::kv_lora_rank, 1, kMaxWidth},
    SizeKey{"qk_nope_head_dim", &GlmConfig::qk_nope_head_dim, 1, kMaxHeads},
    SizeKey{"qk_rope_head_dim", &GlmConfig::qk_rope_head_dim, 2, kMaxHeads},
    SizeKey{"v_head_dim", &GlmConfig::v_head_dim, 1, kMaxHeads},
    SizeKey{"index_n_heads", &GlmConfig::index_num_heads, 1, kMaxHeads},
    SizeKey{"index_head_dim", &GlmConfig::index_head_dim, 1, kMaxHeads},
    SizeKey{"index_topk", &GlmConfig::index_top_k, 1, kMaxPositions},
    SizeKey{"max_position_embeddings", &GlmConfig::max_positions, 1, kMaxPositions},
};

// Keys that change the mathematics, with the only value that longshore computes.
Result<void> refuse_other_mathematics(ConfigReader& reader) {
  const std::array<std::pair<const char*, json>, 27> only = {{
      {"model_type", "glm_moe_dsa"},
      {"architectures", json::array({"GlmMoeDsaForCausalLM"})},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"mlp_bias", false},
      {"scoring_func", "sigmoid"},
      {"topk_method", "noaux_tc"},
      {"n_group", 1},
      {"topk_group", 1},
      {"moe_layer_freq", 1},
      {"moe_router_dtype", "float32"},
      {"rope_interleave", true},
      {"indexer_rope_interleave", true},
      {"partial_rotary_factor", 1.0},
      {"use_qk_norm", false},
      {"sliding_window", nullptr},
      {"use_sliding_window", false},
      {"attention_chunk_size", nullptr},
      {"logit_softcapping", nullptr},
      {"attn_logit_softcapping", nullptr},
      {"final_logit_softcapping", nullptr},
      {"swiglu_limit", nullptr},
      {"clip_qkv", nullptr},
      {"sandwich_norm", false},
      {"use_dsa", true},
      {"is_encoder_decoder", false},
      {"add_cross_attention", false},
  }};
  if (reader.find("model_type") == nullptr) return reader.wrong("model_type", "is missing");
  for (const auto& [key, value] : only) LS_TRY_VOID(reader.only(key, value));
  return {};
}

// Keys that repeat what others say must agree with them.
Result<void> check_agreement(ConfigReader& reader, const GlmConfig& config) {
  const std::array<std::pair<const char*, int64_t>, 5> repeats = {{
      {"num_key_value_heads", config.num_heads},
      {"qk_head_dim", config.qk_head_dim()},
      {"num_experts", config.num_experts},
      {"num_local_experts", config.num_experts},
      {"kv_channels", config.qk_head_dim()},
  }};
  for (const auto& [key, expected] : repeats) {
    LS_TRY(const auto value, reader.optional_integer(key, 1, INT32_MAX));
    if (value && *value != expected) {
      return reader.wrong(key,
                          fmt::format("is {} but the other keys make it {}", *value, expected));
    }
  }
  // GLM-5 and 5.1 store the rotary width here, GLM-5.2 the other one; nothing reads it.
  LS_TRY(const auto head_dim, reader.optional_integer("head_dim", 1, INT32_MAX));
  if (head_dim && *head_dim != config.qk_rope_head_dim && *head_dim != config.qk_nope_head_dim &&
      *head_dim != config.qk_head_dim()) {
    return reader.wrong("head_dim",
                        fmt::format("is {} but qk_rope_head_dim is {} and qk_nope_head_dim {}",
                                    *head_dim, config.qk_rope_head_dim, config.qk_nope_head_dim));
  }
  return {};
}

Result<void> check_sizes(const ConfigReader& reader, const GlmConfig& config) {
  if (config.experts_per_token > config.num_experts) {
    return reader.wrong("num_experts_per_tok",
                        fmt::format("is {} but n_routed_experts is only {}",
                                    config.experts_per_token, config.num_experts));
  }
  if (config.num_experts * (config.num_layers + 1) > kMaxAllExperts) {
    return reader.wrong("n_routed_experts",
                        fmt::format("is {} in {} layers: together more than {} experts",
                                    config.num_experts, config.num_layers, kMaxAllExperts));
  }
  if (config.qk_rope_head_dim % 2 != 0) {
    return reader.wrong("qk_rope_head_dim",
                        fmt::format("is {} but must be even", config.qk_rope_head_dim));
  }
  if (config.index_head_dim < config.qk_rope_head_dim) {
    return reader.wrong("index_head_dim",
                        fmt::format("is {} but qk_rope_head_dim is {}, more", config.index_head_dim,
                                    config.qk_rope_head_dim));
  }
  return {};
}

Result<void> read_mlp_layers(ConfigReader& reader, GlmConfig& config) {
  LS_TRY(const auto words, reader.layer_words("mlp_layer_types", config.num_layers));
  LS_TRY(const auto first, reader.optional_integer("first_k_dense_replace", 0, config.num_layers));
  if (!first && !words) return reader.wrong("first_k_dense_replace", "is missing");
  int64_t dense = 0;
  if (words) {
    while (dense < static_cast<int64_t>(words->size()) &&
           (*words)[static_cast<size_t>(dense)] == "dense")
      ++dense;
    if (std::any_of(words->begin() + dense, words->end(),
                    [](const std::string& word) { return word != "sparse"; })) {
      return reader.unsupported("mlp_layer_types", *reader.find("mlp_layer_types"),
                                "dense layers first and sparse layers after them");
    }
    if (first && *first != std::min(dense, config.num_layers)) {
      return reader.wrong(
          "first_k_dense_replace",
          fmt::format("is {} but mlp_layer_types begins with {} dense layers", *first, dense));
    }
  }
  config.first_k_dense = first.value_or(std::min(dense, config.num_layers));
  // The attention's kind is fixed by the architecture.
  LS_TRY(const auto attention, reader.layer_words("layer_types", config.num_layers));
  if (attention && std::any_of(attention->begin(), attention->end(), [](const std::string& word) {
        return word != "deepseek_sparse_attention";
      })) {
    return reader.unsupported("layer_types", *reader.find("layer_types"),
                              "deepseek_sparse_attention in every layer");
  }
  return {};
}

Result<std::optional<std::vector<IndexerType>>> read_indexer_list(ConfigReader& reader,
                                                                  const char* key, int64_t layers) {
  LS_TRY(const auto words, reader.layer_words(key, layers));
  if (!words) return std::nullopt;
  std::vector<IndexerType> types;
  for (const std::string& word : *words) {
    if (word == "full" || word == "F") {
      types.push_back(IndexerType::kFull);
    } else if (word == "shared" || word == "S") {
      types.push_back(IndexerType::kShared);
    } else {
      return reader.unsupported(key, word, "full and shared layers only");
    }
  }
  if (static_cast<int64_t>(types.size()) > layers && types.back() != IndexerType::kFull) {
    return reader.wrong(key, "makes the MTP layer shared but it has an indexer of its own");
  }
  types.resize(static_cast<size_t>(layers));
  return types;
}

// full iff max(layer - offset + 1, 0) % frequency == 0. Source: transformers 5.17's
// GlmMoeDsaConfig, with its default offset.
Result<std::optional<std::vector<IndexerType>>> read_indexer_frequency(ConfigReader& reader,
                                                                       int64_t layers) {
  LS_TRY(const auto frequency, reader.optional_integer("index_topk_freq", 1, kMaxLayers));
  LS_TRY(const auto offset, reader.optional_integer("index_skip_topk_offset", 0, kMaxLayers));
  if (!frequency) return std::nullopt;
  std::vector<IndexerType> types;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t step = std::max<int64_t>(layer - offset.value_or(2) + 1, 0);
    types.push_back(step % *frequency == 0 ? IndexerType::kFull : IndexerType::kShared);
  }
  return types;
}

Result<void> read_indexers(ConfigReader& reader, GlmConfig& config) {
  const int64_t layers = config.num_layers;
  std::optional<std::vector<IndexerType>> chosen;
  const char* chosen_key = nullptr;
  for (const char* key : {"indexer_types", "index_topk_pattern", "index_topk_freq"}) {
    LS_TRY(const auto types, std::string_view(key) == "index_topk_freq"
                                 ? read_indexer_frequency(reader, layers)
                                 : read_indexer_list(reader, key, layers));
    if (!types) continue;
    if (chosen && *chosen != *types) {
      const auto differ = std::mismatch(chosen->begin(), chosen->end(), types->begin()).first;
      return reader.wrong(
          key, fmt::format("and {} disagree about layer {}", chosen_key, differ - chosen->begin()));
    }
    chosen = *types;
    chosen_key = key;
  }
  if (!chosen) chosen.emplace(static_cast<size_t>(layers), IndexerType::kFull);
  if (chosen->front() != IndexerType::kFull) {
    return reader.wrong(chosen_key, "makes layer 0 shared but no layer before it has an indexer");
  }
  config.indexer_types = std::move(*chosen);
  return {};
}

// One of the objects that describe rotary embeddings; returns its rope_theta.
Result<std::optional<float>> read_rope_section(ConfigReader& reader, const char* key,
                                               GlmConfig& config) {
  const json* value = reader.find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) return reader.unsupported(key, *value, "the default rotary embedding");
  ConfigReader section(*value, reader.where(), key);
  LS_TRY_VOID(section.only("rope_type", "default"));
  LS_TRY_VOID(section.only("type", "default"));
  LS_TRY_VOID(section.only("partial_rotary_factor", 1.0));
  LS_TRY_VOID(section.only("factor", 1.0));
  LS_TRY_VOID(section.only("attention_factor", 1.0));
  LS_TRY_VOID(section.only("mscale", 1.0));
  LS_TRY_VOID(section.only("mscale_all_dim", 1.0));
  LS_TRY(const auto theta, section.optional_positive("rope_theta", 1e12));
  std::ranges::copy(section.unknown_keys(), std::back_inserter(config.unknown_keys));
  return theta;
}

Result<void> read_rope(ConfigReader& reader, GlmConfig& config) {
  LS_TRY(const auto top, reader.optional_positive("rope_theta", 1e12));
  LS_TRY(const auto parameters, read_rope_section(reader, "rope_parameters", config));
  LS_TRY(const auto scaling, read_rope_section(reader, "rope_scaling", config));
  for (const auto& theta : {top, parameters, scaling}) {
    if (!theta) continue;
    if (config.rope_theta != 0 && config.rope_theta != *theta) {
      return reader.wrong("rope_theta",
                          fmt::format("is given as {} and as {}", config.rope_theta, *theta));
    }
    config.rope_theta = *theta;
  }
  if (config.rope_theta == 0) return reader.wrong("rope_parameters.rope_theta", "is missing");
  return {};
}

Result<void> read_eos(ConfigReader& reader, GlmConfig& config) {
  const json* value = reader.find("eos_token_id");
  if (value == nullptr) return {};
  for (const json& id : value->is_array() ? *value : json::array({*value})) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() >= static_cast<uint64_t>(config.vocab_size)) {
      return reader.wrong("eos_token_id", fmt::format("holds {} but must hold token ids below {}",
                                                      show(id), config.vocab_size));
    }
    config.eos_token_ids.push_back(id.get<int32_t>());
  }
  return {};
}

Result<void> read_quantization(ConfigReader& reader, GlmConfig& config) {
  const json* value = reader.find("quantization_config");
  if (value == nullptr) return {};
  if (!value->is_object()) {
    return reader.unsupported("quantization_config", *value, "block-scaled FP8 or none");
  }
  ConfigReader section(*value, reader.where(), "quantization_config");
  if (section.find("quant_method") == nullptr) return section.wrong("quant_method", "is missing");
  LS_TRY_VOID(section.only("quant_method", "fp8"));
  LS_TRY_VOID(section.only("fmt", "e4m3"));
  LS_TRY_VOID(section.only("activation_scheme", "dynamic"));
  const json* block = section.find("weight_block_size");
  if (block == nullptr) return section.wrong("weight_block_size", "is missing");
  // Powers of two from 16 to 1024.
  const auto supported = [](const json& size) {
    if (!size.is_number_unsigned()) return false;
    const auto n = size.get<uint64_t>();
    return n >= 16 && n <= 1024 && (n & (n - 1)) == 0;
  };
  if (!block->is_array() || block->size() != 2 || !std::ranges::all_of(*block, supported)) {
    return section.unsupported("weight_block_size", *block, "blocks of [128, 128]");
  }
  config.quant_block_rows = (*block)[0].get<int64_t>();
  config.quant_block_cols = (*block)[1].get<int64_t>();
  // Every tensor says itself whether it is FP8.
  for (const char* key : {"modules_to_not_convert", "ignored_layers", "dequantize"})
    section.ignore(key);
  std::ranges::copy(section.unknown_keys(), std::back_inserter(config.unknown_keys));
  return {};
}

// Words in a key's name that speak of the forward pass, and words that take it back.
constexpr std::array<std::string_view, 28> kMathematics = {
    "act",     "activation", "alibi",    "bias",   "clip",      "dsa",         "expert",
    "experts", "gate",       "gated",    "gating", "layernorm", "lora",        "multiplier",
    "norm",    "parallel",   "residual", "rope",   "rotary",    "router",      "sandwich",
    "scale",   "scaling",    "sink",     "sinks",  "softcap",   "softcapping", "window"};
constexpr std::array<std::string_view, 6> kTraining = {"dropout",     "pdrop", "init",
                                                       "initializer", "loss",  "jitter"};

bool speaks_of(std::string_view key, std::span<const std::string_view> words) {
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('_', begin), key.size());
    if (std::ranges::find(words, key.substr(begin, end - begin)) != words.end()) return true;
    begin = end + 1;
  }
  return false;
}

// Off, whatever it is that the key switches on.
bool is_off(const json& value) {
  if (value.is_number()) return value.get<double>() == 0;
  return value.is_null() || value == false || value == "" ||
         (value.is_structured() && value.empty());
}

// docs/decisions/config-policy.md has the reasons.
Result<void> refuse_unknown_mathematics(const ConfigReader& reader, const json& document) {
  for (const std::string& key : reader.unknown_keys()) {
    const auto value = document.find(key);
    if (value == document.end() || is_off(*value)) continue;
    if (!speaks_of(key, kMathematics) || speaks_of(key, kTraining)) continue;
    return reader.unsupported(key.c_str(), *value, fmt::format("{} absent or off", key));
  }
  return {};
}

// The dtype of the weights as published; every tensor says its own.
Result<void> check_dtype(ConfigReader& reader) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const json* value = reader.find(key);
    if (value == nullptr) continue;
    const bool known = *value == "bfloat16" || *value == "float16" || *value == "float32" ||
                       *value == "float8_e4m3fn" || *value == "auto";
    if (!known) return reader.unsupported(key, *value, "bfloat16, float16 or float32");
  }
  return {};
}

Result<void> read_scalars(ConfigReader& reader, GlmConfig& config) {
  LS_TRY(config.routed_scaling_factor, reader.positive("routed_scaling_factor", 1e6));
  LS_TRY(config.rms_norm_eps, reader.positive("rms_norm_eps", 0.1));
  LS_TRY(const auto normalise, reader.optional_boolean("norm_topk_prob"));
  if (!normalise) return reader.wrong("norm_topk_prob", "is missing");
  config.norm_topk_prob = *normalise;
  LS_TRY(const auto tie, reader.optional_boolean("tie_word_embeddings"));
  config.tie_word_embeddings = tie.value_or(false);
  LS_TRY(const auto mtp, reader.optional_integer("num_nextn_predict_layers", 0, kMaxLayers));
  config.num_mtp_layers = mtp.value_or(0);
  // Of one pass of the MTP layer per token, the only one that we make, it says nothing.
  LS_TRY_VOID(reader.optional_boolean("index_share_for_mtp_iteration"));
  if (config.num_mtp_layers > 1) {
    return reader.unsupported("num_nextn_predict_layers", *mtp, "at most one MTP layer");
  }
  return {};
}

}  // namespace

Result<GlmConfig> parse_config(const std::string& text, const std::string& where) {
  LS_TRY(const json document, parse_json(text, where));
  if (!document.is_object()) {
    return fail(ErrorKind::kModel, "{}: not a JSON object: the file is damaged; download it again",
                where);
  }
  GlmConfig config;
  ConfigReader reader(document, where);
  LS_TRY_VOID(refuse_other_mathematics(reader));
  for (const SizeKey& size : kSizes) {
    LS_TRY(config.*size.field, reader.integer(size.key, size.low, size.high));
  }
  LS_TRY_VOID(check_sizes(reader, config));
  LS_TRY_VOID(check_agreement(reader, config));
  LS_TRY_VOID(read_scalars(reader, config));
  LS_TRY_VOID(read_mlp_layers(reader, config));
  LS_TRY_VOID(read_indexers(reader, config));
  LS_TRY_VOID(read_rope(reader, config));
  LS_TRY_VOID(read_eos(reader, config));
  LS_TRY_VOID(read_quantization(reader, config));
  LS_TRY_VOID(check_dtype(reader));
  for (const char* key : kHarmless) reader.ignore(key);
  LS_TRY_VOID(refuse_unknown_mathematics(reader, document));
  std::ranges::copy(reader.unknown_keys(), std::back_inserter(config.unknown_keys));
  return config;
}

Result<GlmConfig> load_config(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  LS_TRY(const std::string text, read_file(path, kMaxConfigBytes, ErrorKind::kModel));
  return parse_config(text, path);
}

}  // namespace longshore
