#include "checkpoint/config.h"

#include <vector>

#include "tests/checkpoint/fixture.h"

namespace longshore {
namespace {

using nlohmann::json;
using testing::expect_error;

// GLM-5.1's config with all keys that GLM-5.1 carries.
json glm_5_1() {
  return json::parse(R"({
    "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "attention_bias": false,
    "attention_dropout": 0.0, "dtype": "bfloat16", "eos_token_id": [154820, 154827, 154829],
    "ep_size": 1, "first_k_dense_replace": 3, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 6144, "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048,
    "indexer_rope_interleave": true, "initializer_range": 0.02, "intermediate_size": 12288,
    "kv_lora_rank": 512, "max_position_embeddings": 202752, "moe_intermediate_size": 2048,
    "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": true, "num_attention_heads": 64, "num_experts_per_tok": 8,
    "num_hidden_layers": 78, "num_key_value_heads": 64, "num_nextn_predict_layers": 1,
    "pad_token_id": 154820, "pretraining_tp": 1, "q_lora_rank": 2048, "qk_head_dim": 256,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05,
    "rope_interleave": true, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
    "topk_group": 1, "topk_method": "noaux_tc", "transformers_version": "5.2.0",
    "use_cache": true, "v_head_dim": 256, "vocab_size": 154880,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}})");
}

json glm_5_2() {
  json config = glm_5_1();
  config.update(json::parse(R"({"head_dim": 192, "index_share_for_mtp_iteration": true,
    "index_skip_topk_offset": 3, "index_topk_freq": 4, "index_topk_pattern": null,
    "max_position_embeddings": 1048576, "moe_router_dtype": "float32",
    "rope_parameters": {"rope_theta": 8000000, "rope_type": "default"}})"));
  for (int layer = 0; layer < 78; ++layer) {
    config["indexer_types"].push_back(layer < 3 || (layer - 2) % 4 == 0 ? "full" : "shared");
    config["mlp_layer_types"].push_back(layer < 3 ? "dense" : "sparse");
    config["layer_types"].push_back("deepseek_sparse_attention");
  }
  return config;
}

Result<GlmConfig> parse(const json& config) {
  return parse_config(config.dump(), "config.json");
}

// One key set to one value; a path into a section has a dot.
json with(json config, const std::string& key, const json& value) {
  const size_t dot = key.find('.');
  if (dot == std::string::npos) {
    config[key] = value;
  } else {
    config[key.substr(0, dot)][key.substr(dot + 1)] = value;
  }
  return config;
}

TEST(Config, TakesGlm51) {
  const auto config = parse(glm_5_1());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->vocab_size, 154880);
  EXPECT_EQ(config->num_layers, 78);
  EXPECT_EQ(config->first_k_dense, 3);
  EXPECT_EQ(config->num_experts, 256);
  EXPECT_EQ(config->qk_head_dim(), 256);
  EXPECT_EQ(config->latent_width(), 576);
  EXPECT_EQ(config->rope_theta, 1e6F);
  EXPECT_EQ(config->rms_norm_eps, 1e-5F);
  EXPECT_EQ(config->num_mtp_layers, 1);
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{154820, 154827, 154829}));
  EXPECT_EQ(config->indexer_types, std::vector<IndexerType>(78, IndexerType::kFull));
  EXPECT_TRUE(config->unknown_keys.empty());
}

TEST(Config, TakesGlm5) {
  json source = glm_5_1();
  source.erase("quantization_config");
  source.erase("first_k_dense_replace");
  for (int layer = 0; layer < 78; ++layer) {
    source["mlp_layer_types"].push_back(layer < 3 ? "dense" : "sparse");
  }
  const auto config = parse(source);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->first_k_dense, 3);
}

TEST(Config, TakesGlm52InEveryWayToWriteIndexShare) {
  const auto expected = parse(glm_5_2());
  ASSERT_TRUE(expected) << expected.error().message;
  EXPECT_TRUE(expected->unknown_keys.empty());
  EXPECT_EQ(std::ranges::count(expected->indexer_types, IndexerType::kFull), 21);
  EXPECT_TRUE(expected->has_indexer(6));
  EXPECT_FALSE(expected->has_indexer(7));
  EXPECT_TRUE(expected->has_indexer(78));
  std::string pattern;
  for (const IndexerType type : expected->indexer_types)
    pattern += type == IndexerType::kFull ? 'F' : 'S';
  json by_frequency = glm_5_2();
  by_frequency.erase("indexer_types");
  json by_pattern = by_frequency;
  by_pattern.erase("index_topk_freq");
  by_pattern["index_topk_pattern"] = pattern;
  for (const json& source :
       {by_frequency, by_pattern, with(glm_5_2(), "index_topk_pattern", pattern)}) {
    const auto config = parse(source);
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->indexer_types, expected->indexer_types);
  }
}

TEST(Config, TakesEquivalentSpellings) {
  json legacy = glm_5_1();
  legacy.erase("rope_parameters");
  legacy["rope_theta"] = 500000;
  legacy["rope_scaling"] = nullptr;
  legacy["eos_token_id"] = 7;
  const auto config = parse(legacy);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope_theta, 5e5F);
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{7});
}

TEST(Config, ListsKeysThatItDoesNotKnow) {
  json source = with(glm_5_1(), "tea", "earl grey");
  source["quantization_config"]["scale_fmt"] = "ue8m0";
  const auto config = parse(source);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_THAT(config->unknown_keys,
              ::testing::UnorderedElementsAre("tea", "quantization_config.scale_fmt"));
}

TEST(Config, UnknownMathematicsIsRefusedByNameUnlessItIsOff) {
  const std::vector<std::pair<const char*, json>> refused = {{"clip_qkv", 8},
                                                             {"sandwich_norm", true},
                                                             {"use_dsa", false},
                                                             {"expert_bias", true},
                                                             {"q_bias", true},
                                                             {"residual_multiplier", 2},
                                                             {"attention_sinks", true},
                                                             {"dtype", "int4"},
                                                             {"torch_dtype", 16},
                                                             {"rope_scale", 0.5},
                                                             {"index_share_for_mtp_iteration", 2}};
  for (const auto& [key, value] : refused)
    expect_error(parse(with(glm_5_1(), key, value)), ErrorKind::kModel, {key});
  const std::vector<std::pair<const char*, json>> taken = {{"clip_qkv", nullptr},
                                                           {"sandwich_norm", false},
                                                           {"use_dsa", true},
                                                           {"expert_bias", false},
                                                           {"q_bias", 0},
                                                           {"hidden_dropout", 0.1},
                                                           {"router_jitter", 0.01},
                                                           {"dtype", "float32"},
                                                           {"attention_dropout", 0.5},
                                                           {"rope_scale", nullptr},
                                                           {"index_share_for_mtp_iteration", true}};
  for (const auto& [key, value] : taken) {
    const auto config = parse(with(glm_5_1(), key, value));
    EXPECT_TRUE(config) << config.error().message;
  }
}

TEST(Config, RefusesEveryMissingKey) {
  for (const char* key : {"model_type",
                          "vocab_size",
                          "hidden_size",
                          "num_hidden_layers",
                          "intermediate_size",
                          "moe_intermediate_size",
                          "n_routed_experts",
                          "num_experts_per_tok",
                          "n_shared_experts",
                          "num_attention_heads",
                          "q_lora_rank",
                          "kv_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "index_n_heads",
                          "index_head_dim",
                          "index_topk",
                          "max_position_embeddings",
                          "first_k_dense_replace",
                          "routed_scaling_factor",
                          "rms_norm_eps",
                          "norm_topk_prob"}) {
    json source = glm_5_1();
    source.erase(key);
    SCOPED_TRACE(key);
    expect_error(parse(source), ErrorKind::kModel, {"config.json: ", key, "missing"});
    expect_error(parse(with(glm_5_1(), key, nullptr)), ErrorKind::kModel, {key, "missing"});
  }
  expect_error(parse(with(glm_5_1(), "rope_parameters", nullptr)), ErrorKind::kModel,
               {"rope_parameters.rope_theta", "missing"});
  for (const char* key : {"quant_method", "weight_block_size"}) {
    json source = glm_5_1();
    source["quantization_config"].erase(key);
    expect_error(parse(source), ErrorKind::kModel, {"quantization_config", key, "missing"});
  }
}

TEST(Config, RefusesAbsurdNumbersByKeyAndValue) {
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size",
                          "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok",
                          "n_shared_experts", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
                          "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_n_heads",
                          "index_head_dim", "index_topk", "max_position_embeddings"}) {
    SCOPED_TRACE(key);
    for (const json& value : {json(0), json(-5), json(1.5), json("8"), json(true), json::array(),
                              json(int64_t{1} << 40), json(UINT64_MAX)}) {
      expect_error(parse(with(glm_5_1(), key, value)), ErrorKind::kModel, {key, value.dump()});
    }
  }
}

struct Case {
  const char* key;
  json value;
};

TEST(Config, RefusesEveryUnsupportedOrContradictoryValueByKeyAndValue) {
  const std::vector<Case> cases = {
      {"model_type", "deepseek_v32"},
      {"architectures", json::array({"DeepseekV32ForCausalLM"})},
      {"hidden_act", "gelu"},
      {"scoring_func", "softmax"},
      {"topk_method", "greedy"},
      {"n_group", 8},
      {"topk_group", 4},
      {"rope_interleave", false},
      {"indexer_rope_interleave", false},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"moe_layer_freq", 2},
      {"moe_router_dtype", "bfloat16"},
      {"num_nextn_predict_layers", 2},
      {"num_nextn_predict_layers", -1},
      {"partial_rotary_factor", 0.5},
      {"final_logit_softcapping", 30.0},
      {"sliding_window", 4096},
      {"use_qk_norm", true},
      {"rope_parameters.rope_type", "yarn"},
      {"rope_parameters.partial_rotary_factor", 0.5},
      {"rope_parameters.factor", 40.0},
      {"rope_parameters.rope_theta", -1.0},
      {"rope_parameters.rope_theta", "big"},
      {"rope_parameters", 5},
      {"rope_scaling", json::object({{"type", "yarn"}})},
      {"rope_theta", 10000.0},
      {"quantization_config.quant_method", "compressed-tensors"},
      {"quantization_config.fmt", "e5m2"},
      {"quantization_config.activation_scheme", "static"},
      {"quantization_config.weight_block_size", json::array({128})},
      {"quantization_config.weight_block_size", json::array({100, 128})},
      {"quantization_config.weight_block_size", json::array({0, 128})},
      {"quantization_config.weight_block_size", json::array({128, -128})},
      {"quantization_config", "fp8"},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", 1e300},
      {"routed_scaling_factor", -2.5},
      {"routed_scaling_factor", 1e300},
      {"norm_topk_prob", 1},
      {"tie_word_embeddings", "no"},
      {"num_experts_per_tok", 257},
      {"first_k_dense_replace", 79},
      {"first_k_dense_replace", -1},
      {"num_key_value_heads", 8},
      {"qk_head_dim", 192},
      {"head_dim", 100},
      {"num_local_experts", 128},
      {"qk_rope_head_dim", 63},
      {"index_head_dim", 32},
      {"n_routed_experts", 65536},
      {"eos_token_id", 154880},
      {"eos_token_id", -1},
      {"eos_token_id", json::array({"x"})},
      {"index_topk_freq", 0},
  };
  for (const Case& c : cases) {
    // The message shows the innermost value.
    const json& shown = c.value.is_object() ? *c.value.begin() : c.value;
    const std::string key = c.key;
    SCOPED_TRACE(key + " = " + c.value.dump());
    std::vector<std::string> words = {"config.json: ", key};
    if (!(key == "eos_token_id" && c.value.is_array())) {
      if (!shown.is_number_float()) words.push_back(shown.dump());
    }
    json source = glm_5_1();
    if (key == "qk_rope_head_dim") source.erase("qk_head_dim");
    expect_error(parse(with(source, key, c.value)), ErrorKind::kModel, words);
  }
}

TEST(Config, RefusesLayerListsThatDisagree) {
  json source = glm_5_2();
  source["indexer_types"][5] = "full";
  expect_error(parse(source), ErrorKind::kModel, {"index_topk_freq", "indexer_types", "layer 5"});
  source = glm_5_2();
  source["indexer_types"][5] = "half";
  expect_error(parse(source), ErrorKind::kModel, {"indexer_types", "half"});
  source = glm_5_2();
  source["indexer_types"].erase(77);
  expect_error(parse(source), ErrorKind::kModel, {"indexer_types", "77", "78"});
  source = glm_5_2();
  source["mlp_layer_types"][3] = "dense";
  expect_error(parse(source), ErrorKind::kModel, {"first_k_dense_replace", "mlp_layer_types"});
  source = glm_5_2();
  source["mlp_layer_types"][50] = "dense";
  expect_error(parse(source), ErrorKind::kModel, {"mlp_layer_types"});
  source = glm_5_2();
  source["layer_types"][1] = "sliding_attention";
  expect_error(parse(source), ErrorKind::kModel, {"layer_types"});
  source = with(glm_5_1(), "index_topk_pattern", std::string(78, 'S'));
  expect_error(parse(source), ErrorKind::kModel, {"index_topk_pattern", "layer 0"});
}

TEST(Config, RefusesTextThatIsNoConfig) {
  for (const std::string text : {"", "nul", "[]", "3", "{\"a\":1,}", "{\"rope_theta\": 1e999}",
                                 "{\"a\":1,\"a\":2}", "\xff\xfe"}) {
    expect_error(parse_config(text, "dir/config.json"), ErrorKind::kModel, {"dir/config.json"});
  }
  expect_error(load_config("/nonexistent"), ErrorKind::kModel,
               {"/nonexistent/config.json", "No such file"});
}

}  // namespace
}  // namespace longshore
