#include "kernels/moe_config.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/moe_variants.h"
#include "tests/paths.h"

namespace longshore::kernels {
namespace {

constexpr const char* kText = R"({
  "1": {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1,
        "num_warps": 4, "num_stages": 3},
  "64": {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 32,
         "num_warps": 8, "num_stages": 4},
  "8": {"BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 16,
        "num_warps": 4, "num_stages": 2}})";

std::string text_with(const std::string& from, const std::string& to) {
  std::string text = kText;
  text.replace(text.find(from), from.size(), to);
  return text;
}

std::string refusal(const std::string& text) {
  const auto parsed = parse_moe_config(text, "a.json");
  EXPECT_FALSE(parsed.has_value()) << text;
  return parsed ? "" : parsed.error().message;
}

TEST(MoeConfig, NamesFilesAsOthersDo) {
  EXPECT_EQ(moe_config_name(257, 256, "NVIDIA H200", "fp8_w8a8"),
            "E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json");
}

TEST(MoeConfig, ReadsEverySize) {
  const MoeTable table = parse_moe_config(kText, "a.json").value();
  ASSERT_EQ(table.size(), 3u);
  const MoeTile& tile = table.at(64);
  EXPECT_EQ(tile.block_m, 64);
  EXPECT_EQ(tile.block_n, 128);
  EXPECT_EQ(tile.block_k, 128);
  EXPECT_EQ(tile.group_m, 32);
  EXPECT_EQ(tile.warps, 8);
  EXPECT_EQ(tile.stages, 4);
}

TEST(MoeConfig, ChoosesTheNearestNumberOfTokens) {
  const MoeTable table = parse_moe_config(kText, "a.json").value();
  const auto nearest = [&](int64_t tokens) { return nearest_tokens(table, tokens).block_m; };
  EXPECT_EQ(nearest(1), 16);
  EXPECT_EQ(nearest(4), 16);
  EXPECT_EQ(nearest(5), 32);
  EXPECT_EQ(nearest(36), 32);
  EXPECT_EQ(nearest(37), 64);
  EXPECT_EQ(nearest(100000), 64);
}

TEST(MoeConfig, RefusesMalformedFilesByName) {
  EXPECT_EQ(refusal("{"), "a.json: not a JSON object");
  EXPECT_EQ(refusal("[]"), "a.json: not a JSON object");
  EXPECT_EQ(refusal("{}"), "a.json: no entries");
  EXPECT_EQ(refusal(text_with("\"8\"", "\"eight\"")),
            "a.json: key \"eight\" is no number of tokens");
  EXPECT_EQ(refusal(text_with("\"8\"", "\"0\"")), "a.json: key \"0\" is no number of tokens");
  EXPECT_EQ(refusal(text_with("\"num_warps\": 8", "\"num_warps\": 0")),
            "a.json: entry \"64\": num_warps is 0, not 1 to 32");
  EXPECT_EQ(refusal(text_with("\"num_stages\": 2", "\"num_stages\": 2.5")),
            "a.json: entry \"8\" has no whole number num_stages");
  EXPECT_EQ(refusal(text_with("\"BLOCK_SIZE_K\": 128, ", "")),
            "a.json: entry \"1\" has no whole number BLOCK_SIZE_K");
  EXPECT_EQ(refusal(R"({"1": 7})"), "a.json: entry \"1\" has no whole number BLOCK_SIZE_M");
  EXPECT_TRUE(parse_moe_config(text_with("{\n", "{\"triton_version\": \"3.2.0\",\n"), "a.json"));
}

const std::vector<MoeVariant> kVariants = {{"small", {16, 32, 128, 1, 4, 2}},
                                           {"middle", {32, 64, 128, 1, 4, 4}},
                                           {"large", {128, 256, 128, 1, 8, 4}}};

TEST(MoeConfig, MapsSizesToTheNearestVariant) {
  EXPECT_EQ(nearest_variant(kVariants, {16, 32, 128, 1, 4, 2}), 0u);
  EXPECT_EQ(nearest_variant(kVariants, {16, 64, 128, 1, 4, 3}), 0u);
  EXPECT_EQ(nearest_variant(kVariants, {64, 64, 128, 32, 4, 4}), 1u);
  EXPECT_EQ(nearest_variant(kVariants, {256, 128, 64, 64, 8, 3}), 2u);
}

class MoeConfigFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder = std::filesystem::temp_directory_path() /
             testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  void write(const std::string& text) {
    std::ofstream(folder / moe_config_name(8, 64, "GPU", "fp8_w8a16")) << text;
  }
  std::optional<size_t> ask(MoeConfigs& configs, int64_t tokens) {
    return configs.variant(kVariants, 8, 64, "fp8_w8a16", tokens);
  }
  MoeConfigs configs_in(const std::filesystem::path& where) {
    return {where.string(), "GPU", [this](const std::string& line) { lines.push_back(line); }};
  }

  std::filesystem::path folder;
  std::vector<std::string> lines;
};

TEST_F(MoeConfigFiles, ChooseAndSayOnceWhereFrom) {
  write(kText);
  MoeConfigs configs = configs_in(folder);
  EXPECT_EQ(ask(configs, 1), 0u);
  EXPECT_EQ(ask(configs, 9), 1u);
  EXPECT_EQ(ask(configs, 2), 0u);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("1: small, 8: middle, 64: "), std::string::npos) << lines[0];
}

TEST_F(MoeConfigFiles, MissingLeavesTheBuiltInRuleAndSaysSoOnce) {
  MoeConfigs configs = configs_in(folder);
  EXPECT_EQ(ask(configs, 1), std::nullopt);
  EXPECT_EQ(ask(configs, 2), std::nullopt);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("built-in"), std::string::npos);
  EXPECT_NE(lines[0].find("E=8,N=64,device_name=GPU"), std::string::npos) << lines[0];
}

TEST_F(MoeConfigFiles, MalformedLeavesTheBuiltInRuleAndNamesTheFault) {
  write(R"({"1": {}})");
  MoeConfigs configs = configs_in(folder);
  EXPECT_EQ(ask(configs, 1), std::nullopt);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("BLOCK_SIZE_M"), std::string::npos) << lines[0];
}

TEST_F(MoeConfigFiles, NoFolderIsSilent) {
  MoeConfigs configs = configs_in("");
  EXPECT_EQ(ask(configs, 1), std::nullopt);
  EXPECT_TRUE(lines.empty());
}

// moe-configs/: what comes with the program.
TEST(ShippedMoeConfigs, ParseAreFoundByNameAndNameCompiledForms) {
  const std::filesystem::path folder = longshore::source_dir() + "/moe-configs";
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "README.md") continue;
    ++files;
    long long experts = 0, rows = 0;
    std::array<char, 64> device_name{}, dtype{};
    ASSERT_EQ(std::sscanf(name.c_str(), "E=%lld,N=%lld,device_name=%63[^,],dtype=%63[^,],",
                          &experts, &rows, device_name.data(), dtype.data()),
              4)
        << name;
    ASSERT_EQ(name, moe_config_name(experts, rows, device_name.data(), dtype.data()));
    std::ostringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    const auto table = parse_moe_config(text.str(), name);
    ASSERT_TRUE(table) << table.error().message;
    EXPECT_TRUE(table->contains(1) && table->contains(4096)) << name;
    std::string device = device_name.data();
    std::replace(device.begin(), device.end(), '_', ' ');
    std::vector<std::string> lines;
    MoeConfigs configs(folder.string(), device, [&](const std::string& l) { lines.push_back(l); });
    for (const auto& [tokens, tile] : *table) {
      const size_t nearest = nearest_variant(kMoeVariants, tile);
      for (const auto member : {&MoeTile::block_m, &MoeTile::block_n, &MoeTile::block_k,
                                &MoeTile::group_m, &MoeTile::warps, &MoeTile::stages}) {
        EXPECT_EQ(kMoeVariants[nearest].tile.*member, tile.*member) << name << " " << tokens;
      }
      EXPECT_EQ(configs.variant(kMoeVariants, experts, rows, dtype.data(), tokens), nearest);
    }
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_NE(lines[0].find(name), std::string::npos);
  }
  EXPECT_GE(files, 8U);
}

TEST(ShippedMoeConfigs, FormsAreAtMostEightAndDiffer) {
  EXPECT_LE(std::size(kMoeVariants), 8U);
  for (size_t i = 0; i < std::size(kMoeVariants); ++i)
    EXPECT_EQ(nearest_variant(kMoeVariants, kMoeVariants[i].tile), i) << kMoeVariants[i].name;
}

}  // namespace
}  // namespace longshore::kernels
