#include "text/chat_template.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/paths.h"

namespace longshore::text {
namespace {

using testing::HasSubstr;

// A model directory of its own for each test.
class ChatTemplateLoad : public testing::Test {
 protected:
  void SetUp() override {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    dir_ = std::filesystem::path(testing::TempDir()) / ("longshore-chat-template-" + name);
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name) << text;
  }
  [[nodiscard]] std::string rendered(const Json& variables = Json::object()) const {
    const auto loaded = ChatTemplate::load(dir_.string());
    if (!loaded) return "error: " + loaded.error().message;
    const auto text = loaded->render(variables);
    return text ? *text : "error: " + text.error().message;
  }
  std::filesystem::path dir_;
};

TEST_F(ChatTemplateLoad, PrefersTheFileToTheConfig) {
  write("chat_template.jinja", "file");
  write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(rendered(), "file");
}

TEST_F(ChatTemplateLoad, TakesTheTemplateOfTheConfig) {
  write("tokenizer_config.json", R"({"chat_template": "{{ bos_token }}config"})");
  EXPECT_EQ(rendered(), "config");
}

TEST_F(ChatTemplateLoad, TakesTheDefaultOfSeveralTemplates) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]})");
  EXPECT_EQ(rendered(), "b");
}

TEST_F(ChatTemplateLoad, KnowsTheSpecialTokens) {
  write("chat_template.jinja",
        "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ unk_token is defined }}");
  write("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null})");
  EXPECT_EQ(rendered(), "<s></s>FalseFalse");
  EXPECT_EQ(rendered({{"bos_token", "<own>"}}), "<own></s>FalseFalse");
}

TEST_F(ChatTemplateLoad, GivesNoneForToolsThatAreNotPassed) {
  write("chat_template.jinja",
        "{{ tools }} {{ documents is none }} {{ add_generation_prompt }} {{ enable_thinking }}|");
  EXPECT_EQ(rendered(), "None True False |");
}

TEST_F(ChatTemplateLoad, RefusesADirectoryWithoutTemplate) {
  EXPECT_THAT(rendered(), HasSubstr("no chat template"));
  write("tokenizer_config.json", "{broken");
  EXPECT_THAT(rendered(), HasSubstr("not a JSON object"));
}

TEST_F(ChatTemplateLoad, ADirectoryInPlaceOfTheFileIsNoTemplate) {
  std::filesystem::create_directory(dir_ / "chat_template.jinja");
  EXPECT_THAT(rendered(), HasSubstr("no chat template"));
}

TEST_F(ChatTemplateLoad, NamesFileAndLineOfASyntaxError) {
  write("chat_template.jinja", "a\n{{ (1 }}");
  const auto loaded = ChatTemplate::load(dir_.string());
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().kind, ErrorKind::kModel);
  EXPECT_THAT(loaded.error().message, HasSubstr("chat_template.jinja:2: "));
}

TEST(ChatTemplate, RefusesVariablesThatAreNoObject) {
  const auto compiled = ChatTemplate::compile("x", "t");
  ASSERT_TRUE(compiled);
  const auto text = compiled->render(Json::array());
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().kind, ErrorKind::kUsage);
}

TEST(ChatTemplate, LoadsTheModelOfTheProject) {
  const auto loaded = ChatTemplate::load(longshore::source_dir() + "/models/glm-nano");
  ASSERT_TRUE(loaded) << loaded.error().message;
  const Json variables = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})},
                          {"add_generation_prompt", true}};
  EXPECT_EQ(*loaded->render(variables), "[gMASK]<sop><|user|>Hi<|assistant|><think>");
}

}  // namespace
}  // namespace longshore::text
