#include "session/chat_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshore::session {
namespace {

using testing::HasSubstr;
using text::Json;

std::string refusal(const char* request) {
  const auto variables = template_variables(Json::parse(request));
  if (variables) return "accepted";
  EXPECT_EQ(variables.error().kind, ErrorKind::kUsage);
  return variables.error().message;
}

TEST(ChatRequest, AsksForAGenerationPromptUnlessTold) {
  const auto plain = template_variables(Json::parse(R"({"messages": []})"));
  ASSERT_TRUE(plain);
  EXPECT_EQ((*plain)["add_generation_prompt"], true);
  for (const char* request : {R"({"messages": [], "add_generation_prompt": false})",
                              R"({"messages": [], "kwargs": {"add_generation_prompt": false}})"}) {
    const auto told = template_variables(Json::parse(request));
    ASSERT_TRUE(told);
    EXPECT_EQ((*told)["add_generation_prompt"], false) << request;
  }
}

TEST(ChatRequest, EveryKeyAndEveryTemplateArgumentBecomesAVariable) {
  const auto made = template_variables(Json::parse(
      R"({"messages": [{"role": "user", "content": "x"}], "tools": [{"a": 1}], "enable_thinking": true, "other": "y",
          "chat_template_kwargs": {"enable_thinking": false, "clear_thinking": 3}, "kwargs": null})"));
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ((*made)["tools"], Json::parse(R"([{"a": 1}])"));
  EXPECT_EQ((*made)["other"], "y");
  EXPECT_EQ((*made)["enable_thinking"], false) << "template arguments win";
  EXPECT_EQ((*made)["clear_thinking"], 3);
  EXPECT_FALSE(made->contains("chat_template_kwargs"));
  EXPECT_FALSE(made->contains("kwargs"));
}

TEST(ChatRequest, ArgumentsOfToolCallsBecomeObjects) {
  const auto made = template_variables(Json::parse(
      R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": \"x\"}"}},
            {"function": {"name": "g", "arguments": {"k": 2}}},
            {"name": "h", "arguments": ""}]}, {"role": "assistant", "tool_calls": null}]})"));
  ASSERT_TRUE(made) << made.error().message;
  const Json& calls = (*made)["messages"][0]["tool_calls"];
  EXPECT_EQ(calls[0]["function"]["arguments"].dump(), R"({"b":1,"a":"x"})") << "in the given order";
  EXPECT_EQ(calls[1]["function"]["arguments"].dump(), R"({"k":2})");
  EXPECT_EQ(calls[2]["arguments"].dump(), "{}");
}

TEST(ChatRequest, RefusesByName) {
  EXPECT_THAT(refusal("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("messages is missing"));
  EXPECT_THAT(refusal(R"({"messages": "hello"})"), HasSubstr("messages is missing or not a list"));
  EXPECT_THAT(refusal(R"({"messages": [{"role": "user"}, 1]})"),
              HasSubstr("messages[1] is not an object"));
  EXPECT_THAT(refusal(R"({"messages": [{"content": "x"}]})"), HasSubstr("messages[0] has no role"));
  EXPECT_THAT(refusal(R"({"messages": [{"role": 1}]})"), HasSubstr("messages[0] has no role"));
  EXPECT_THAT(refusal(R"({"messages": [], "kwargs": 1})"), HasSubstr("kwargs is not an object"));
  EXPECT_THAT(refusal(R"({"messages": [{"role": "assistant", "tool_calls": {}}]})"),
              HasSubstr("messages[0].tool_calls is not a list"));
  EXPECT_THAT(refusal(R"({"messages": [], "tools": {}})"),
              HasSubstr("tools is not a list of objects"));
  EXPECT_THAT(refusal(R"({"messages": [], "tools": [{}, "f"]})"),
              HasSubstr("tools[1] is not an object"));
  EXPECT_THAT(
      refusal(R"({"messages": [{"role": "assistant", "tool_calls": [{"arguments": "[1]"}]}]})"),
      HasSubstr("messages[0].tool_calls: arguments are not a JSON object"));
}

}  // namespace
}  // namespace longshore::session
