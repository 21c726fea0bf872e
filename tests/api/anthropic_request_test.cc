// The fields, messages and tools of /v1/messages and the prompt that they become.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/anthropic/messages.h"
#include "server/openai/chat.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::unique_ptr<Exchange> message(const std::string& more) {
  auto made = anthropic_messages(nano(), message_body(more.c_str()), {});
  EXPECT_TRUE(made) << more << ": " << (made ? "" : made.error().message);
  return made ? std::move(*made) : nullptr;
}

std::string prompt(const std::string& more) {
  return prompt_of(*message(more));
}
std::string talk(const std::string& messages) {
  return prompt(R"({"messages": )" + messages + "}");
}

int64_t count(const Json& body) {
  const auto counted = anthropic_count_tokens(nano(), body, {});
  EXPECT_TRUE(counted) << (counted ? "" : counted.error().message);
  return counted ? Json::parse(*counted)["input_tokens"].get<int64_t>() : -1;
}

struct Refusal {
  const char* more;
  const char* param;
  const char* words;
};

class MessagesRefuse : public testing::TestWithParam<Refusal> {};

TEST_P(MessagesRefuse, ByName) {
  const auto made = anthropic_messages(nano(), message_body(GetParam().more), {});
  ASSERT_FALSE(made) << GetParam().more;
  EXPECT_EQ(made.error().status, 400);
  EXPECT_EQ(made.error().param, GetParam().param) << made.error().message;
  EXPECT_THAT(made.error().message, HasSubstr(GetParam().words));
  EXPECT_THAT(made.error().message, HasSubstr(GetParam().param))
      << "Anthropic's errors have no field but the message";
}

INSTANTIATE_TEST_SUITE_P(
    Fields, MessagesRefuse,
    testing::Values(
        Refusal{R"({"model": null})", "model", "required"},
        Refusal{R"({"model": 5})", "model", "expected a string"},
        Refusal{R"({"max_tokens": null})", "max_tokens", "required"},
        Refusal{R"({"max_tokens": "5"})", "max_tokens", "expected an integer"},
        Refusal{R"({"max_tokens": 0})", "max_tokens", "out of range"},
        Refusal{R"({"messages": null})", "messages", "required"},
        Refusal{R"({"messages": "hi"})", "messages", "expected a list"},
        Refusal{R"({"messages": []})", "messages", "empty"},
        Refusal{R"({"system": 5})", "system", "expected a string or a list of blocks"},
        Refusal{R"({"system": [{"type": "text"}]})", "system[0].text", "required"},
        Refusal{R"({"stop_sequences": "a"})", "stop_sequences", "expected a list"},
        Refusal{R"({"stop_sequences": [1]})", "stop_sequences[0]", "expected a string"},
        Refusal{R"({"stop_sequences": [""]})", "stop_sequences[0]", "empty"},
        Refusal{R"({"temperature": "x"})", "temperature", "expected a number"},
        Refusal{R"({"temperature": -1})", "temperature", "must lie in"},
        Refusal{R"({"top_p": 2})", "top_p", "must lie in"},
        Refusal{R"({"top_k": "x"})", "top_k", "expected an integer"},
        Refusal{R"({"stream": "x"})", "stream", "expected a boolean"},
        Refusal{R"({"thinking": true})", "thinking", "expected an object"},
        Refusal{R"({"thinking": {"type": "maybe"}})", "thinking.type", "expected"},
        Refusal{R"({"thinking": {}})", "thinking.type", "expected"},
        Refusal{R"({"thinking": {"type": "enabled", "budget_tokens": "x"}})",
                "thinking.budget_tokens", "expected an integer"},
        Refusal{R"({"thinking": {"type": "enabled", "depth": 1}})", "thinking.depth",
                "unknown field"},
        Refusal{R"({"tools": {}})", "tools", "expected a list"},
        Refusal{R"({"tools": [1]})", "tools[0]", "expected an object"},
        Refusal{R"({"tools": [{"input_schema": {}}]})", "tools[0].name", "required"},
        Refusal{R"({"tools": [{"name": "f"}]})", "tools[0].input_schema", "required"},
        Refusal{R"({"tools": [{"name": "f", "input_schema": 1}]})", "tools[0].input_schema",
                "expected an object"},
        Refusal{R"({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})",
                "tools[0].type", "web_search"},
        Refusal{R"({"tools": [{"name": "f", "input_schema": {"not": {}}, "strict": true}]})",
                "tools[0].input_schema", "#: not is not supported"},
        Refusal{R"({"tools": [{"name": "f", "input_schema": {}, "typo": 1}]})", "tools[0].typo",
                "unknown field"},
        Refusal{
            R"({"tools": [{"name": "f", "input_schema": {}}, {"name": "f", "input_schema": {}}]})",
            "tools[1].name", "twice"},
        Refusal{R"({"tool_choice": "auto"})", "tool_choice", "expected an object"},
        Refusal{R"({"tool_choice": {"type": "any"}})", "tool_choice", "no tools"},
        Refusal{
            R"({"tool_choice": {"type": "tool", "name": "g"}, "tools": [{"name": "f", "input_schema": {}}]})",
            "tool_choice.name", "none of the tools"},
        Refusal{R"({"tool_choice": {"type": "x"}})", "tool_choice.type", "expected"},
        Refusal{R"({"container": "x"})", "container", "not supported"},
        Refusal{R"({"mcp_servers": [{"url": "x"}]})", "mcp_servers", "not supported"},
        Refusal{R"({"output_config": {"format": {"type": "json_schema"}}})",
                "output_config.format.schema", "required"},
        Refusal{R"({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}})",
                "context_management.edits[0].type", "only"},
        Refusal{R"({"output_format": {"type": "json_schema"}})", "output_format.schema",
                "required"},
        Refusal{R"({"output_format": {"type": "json_schema", "schema": {"uniqueItems": true}}})",
                "output_format.schema", "#: uniqueItems is not supported"},
        Refusal{R"({"output_config": {"effort": "none"}})", "output_config.effort", "expected low"},
        Refusal{R"({"speed": "fast"})", "speed", "one speed"},
        Refusal{R"({"stop": "x"})", "stop", "unknown field"},
        Refusal{R"({"seed": 4})", "seed", "unknown field"}));

INSTANTIATE_TEST_SUITE_P(
    Messages, MessagesRefuse,
    testing::Values(
        Refusal{R"({"messages": [1]})", "messages[0]", "expected an object"},
        Refusal{R"({"messages": [{"role": "tool", "content": "x"}]})", "messages[0].role",
                "expected"},
        Refusal{R"({"messages": [{"content": "x"}]})", "messages[0].role", "expected"},
        Refusal{R"({"messages": [{"role": "user"}]})", "messages[0].content", "required"},
        Refusal{R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content",
                "expected a string or a list"},
        Refusal{R"({"messages": [{"role": "user", "content": [5]}]})", "messages[0].content[0]",
                "expected an object"},
        Refusal{R"({"messages": [{"role": "user", "content": [{"text": "x"}]}]})",
                "messages[0].content[0].type", "required"},
        Refusal{R"({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]})",
                "messages[0].content[0].type", "image"},
        Refusal{R"({"messages": [{"role": "user", "content": [{"type": "document"}]}]})",
                "messages[0].content[0].type", "document"},
        Refusal{
            R"({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]})",
            "messages[0].content[0].type", "role"},
        Refusal{
            R"({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]}]})",
            "messages[0].content[0].input", "expected an object"},
        Refusal{
            R"({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}]})",
            "messages[0].content[0].id", "required"},
        Refusal{
            R"({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]})",
            "messages[0].content[0].tool_use_id", "required"},
        Refusal{
            R"({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "zz", "content": "x"}]}]})",
            "messages", "zz"},
        Refusal{
            R"({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}]}]})",
            "messages[0].content[0].content[0].type", "image"},
        Refusal{
            R"({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "is_error": 1}]}]})",
            "messages[0].content[0].is_error", "expected a boolean"},
        Refusal{R"({"messages": [{"role": "user", "content": "x", "name": "Ann"}]})",
                "messages[0].name", "unknown field"}));

TEST(Messages, ThePromptIsTheOneOfOpenAisDialect) {
  auto other = openai_chat(nano(), Json::parse(R"({"reasoning_effort": "none", "messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]})"),
                           {});
  ASSERT_TRUE(other);
  EXPECT_EQ(prompt(R"({"system": "Be brief."})"), prompt_of(**other));
}

TEST(Messages, SystemIsAStringOrBlocks) {
  const std::string expected = "[gMASK]<sop><|system|>One.\nTwo.<|user|>";
  EXPECT_THAT(prompt(R"({"system": "One.\nTwo."})"), HasSubstr(expected));
  EXPECT_THAT(
      prompt(
          R"({"system": [{"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
                                    {"type": "text", "text": "Two."}]})"),
      HasSubstr(expected));
  EXPECT_EQ(prompt(R"({"system": ""})"), prompt("{}"));
  EXPECT_EQ(prompt(R"({"system": []})"), prompt("{}"));
}

TEST(Messages, TheBillingHeaderIsDropped) {
  const char* plain = R"({"system": "You are Claude Code."})";
  EXPECT_EQ(
      prompt(
          R"({"system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.100; cch=eb6c6;"},
                                  {"type": "text", "text": "You are Claude Code."}]})"),
      prompt(plain));
  EXPECT_EQ(
      prompt(
          R"({"system": "x-anthropic-billing-header: cc_version=2.1.100; cch=eb6c6;\nYou are Claude Code."})"),
      prompt(plain));
  EXPECT_EQ(
      prompt(
          R"({"messages": [{"role": "system", "content": "x-anthropic-billing-header: cch=1;"}, {"role": "user", "content": "Hello!"}]})"),
      prompt("{}"));
  EXPECT_THAT(prompt(R"({"system": "Explain x-anthropic-billing-header: to me."})"),
              HasSubstr("x-anthropic-billing-header"));
}

TEST(Messages, CountersThatMoveDoNotChangeThePromptsHead) {
  EXPECT_EQ(
      prompt(R"({"system": "Be brief.\n<total_tokens>14999436 tokens left</total_tokens>"})"),
      prompt(
          R"({"system": "Be brief.\n<total_tokens>1 tokens left</total_tokens>\n<total_tokens>77 tokens left</total_tokens>"})"));
  const std::string later =
      talk(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    {"role": "system", "content": "<total_tokens>5 tokens left</total_tokens>"}, {"role": "user", "content": "c"}])");
  EXPECT_THAT(later, HasSubstr("b<|system|><total_tokens>5 tokens left</total_tokens><|user|>c"))
      << "later ones stay in their place";
}

TEST(Messages, CacheControlAndOtherNotesChangeNothing) {
  EXPECT_EQ(
      prompt(
          R"({"cache_control": {"type": "ephemeral"}, "metadata": {"user_id": "x"}, "service_tier": "auto",
    "speed": "standard", "diagnostics": {"previous_message_id": null}, "user_profile_id": "p", "workspace_id": "w", "inference_geo": "eu",
    "anthropic_version": "2023-06-01", "anthropic_beta": ["x"], "betas": [],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}]})"),
      prompt("{}"));
}

TEST(Messages, UnknownBlocksAreSkipped) {
  EXPECT_EQ(
      talk(
          R"([{"role": "user", "content": [{"type": "brand_new", "x": 1}, {"type": "text", "text": "Hello!"}]}])"),
      prompt("{}"));
  EXPECT_EQ(
      talk(
          R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"},
                     {"type": "server_tool_use", "id": "s"}, {"type": "text", "text": "b"}]}, {"role": "user", "content": "c"}])"),
      talk(
          R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}])"));
}

constexpr const char* kCalls =
    R"({"role": "user", "content": "go"}, {"role": "assistant", "content": [
  {"type": "thinking", "thinking": "why", "signature": "s"}, {"type": "text", "text": "Two calls."},
  {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {"x": 1}}, {"type": "tool_use", "id": "toolu_b", "name": "g", "input": {}}]})";

TEST(Messages, BlocksOfAnAssistantBecomeATurn) {
  EXPECT_THAT(
      talk("[" + std::string(kCalls) +
           R"(, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_a"},
    {"type": "tool_result", "tool_use_id": "toolu_b"}]}])"),
      HasSubstr("<|assistant|><think>why</think>Two "
                "calls.<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>"
                "<tool_call>g</tool_call><|observation|>"));
}

TEST(Messages, ToolResultsTakeTheOrderOfTheCallsAndTextFollows) {
  EXPECT_THAT(
      talk("[" + std::string(kCalls) + R"(, {"role": "user", "content": [
    {"type": "text", "text": "And now?"},
    {"type": "tool_result", "tool_use_id": "toolu_b", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
    {"type": "tool_result", "tool_use_id": "toolu_a", "content": "first", "is_error": true}]}])"),
      HasSubstr("<|observation|><tool_response>Error: "
                "first</tool_response><tool_response>sec\nond</tool_response><|user|>And now?"));
}

TEST(Messages, ThinkingIsOffUnlessAskedFor) {
  EXPECT_TRUE(prompt("{}").ends_with("<|assistant|><think></think>"));
  EXPECT_TRUE(
      prompt(R"({"thinking": {"type": "disabled"}})").ends_with("<|assistant|><think></think>"));
  EXPECT_TRUE(prompt(R"({"thinking": {"type": "enabled", "budget_tokens": 1024}})")
                  .ends_with("<|assistant|><think>"));
  EXPECT_TRUE(
      prompt(
          R"({"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}})")
          .ends_with("<|assistant|><think>"));
}

TEST(Messages, ThinkingInTheHistoryStaysWhereAskedFor) {
  const std::string messages =
      R"("messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [
    {"type": "thinking", "thinking": "why", "signature": ""}, {"type": "text", "text": "b"}]}, {"role": "user", "content": "c"}])";
  EXPECT_THAT(prompt("{" + messages + "}"), HasSubstr("<|assistant|></think>b"));
  EXPECT_THAT(
      prompt(
          "{" + messages +
          R"(, "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}})"),
      HasSubstr("<|assistant|><think>why</think>b"));
}

TEST(Messages, ABeginningOfTheAnswerIsContinued) {
  EXPECT_TRUE(
      talk(
          R"([{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one, two,"}])")
          .ends_with("<|assistant|><think></think>one, two,"));
  const auto made = anthropic_messages(
      nano(), message_body(R"({"thinking": {"type": "enabled", "budget_tokens": 1024},
    "messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one"}]})"),
      {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().param, "thinking");
}

TEST(Messages, ToolsHaveAnthropicsForm) {
  const std::string tools =
      R"("tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}},
    "cache_control": {"type": "ephemeral"}, "type": "custom"}])";
  const std::string line =
      R"({"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}})";
  EXPECT_THAT(prompt("{" + tools + "}"), HasSubstr(line));
  EXPECT_THAT(prompt("{" + tools + R"(, "tool_choice": {"type": "auto"}})"), HasSubstr(line));
  EXPECT_EQ(prompt("{" + tools + R"(, "tool_choice": {"type": "none"}})"), prompt("{}"));
}

TEST(Messages, SamplingAndStopping) {
  const auto request =
      message(R"({"temperature": 0.25, "top_p": 0.5, "top_k": 7, "stop_sequences": ["a", "b"]})")
          ->take_requests()[0];
  EXPECT_EQ(request.generation.sampling.temperature, 0.25F);
  EXPECT_EQ(request.generation.sampling.top_p, 0.5F);
  EXPECT_EQ(request.generation.sampling.top_k, 7);
  EXPECT_EQ(request.generation.max_tokens, 100);
  EXPECT_THAT(request.stop, ElementsAre("a", "b"));
  EXPECT_THAT(request.generation.stop_ids, ElementsAre(4073, 4080, 4082));
  EXPECT_EQ(message("{}")->take_requests()[0].generation.sampling.top_p, 0.95F);
}

TEST(Messages, ContextLengthErrorsNameTheNumbers) {
  const auto both = anthropic_messages(nano(), message_body(R"({"max_tokens": 1024})"), {});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().status, 400);
  EXPECT_THAT(both.error().message,
              testing::MatchesRegex(
                  "input length and `max_tokens` exceed context limit: [0-9]+ \\+ 1024 > 1024,.*"));
  Json body = message_body();
  std::string& text = body["messages"][0]["content"].get_ref<std::string&>();
  for (int i = 0; i < 1100; ++i) text += " word";
  const auto alone = anthropic_messages(nano(), body, {});
  ASSERT_FALSE(alone);
  EXPECT_THAT(alone.error().message,
              testing::MatchesRegex("prompt is too long: [0-9]+ tokens > 1023 maximum"));
}

TEST(CountTokens, CountsThePromptWithSystemAndTools) {
  const char* more =
      R"({"system": "Be brief.", "tools": [{"name": "f", "input_schema": {"type": "object"}}]})";
  const auto whole =
      static_cast<int64_t>(message(more)->take_requests()[0].generation.prompt.size());
  Json body = message_body(more);
  body.erase("max_tokens");
  EXPECT_EQ(count(body), whole);
  body.erase("tools");
  const int64_t without_tools = count(body);
  EXPECT_LT(without_tools, whole);
  body.erase("system");
  EXPECT_LT(count(body), without_tools);
}

TEST(CountTokens, CountsWhatNoContextHoldsAndRefusesByName) {
  Json body = message_body();
  std::string& text = body["messages"][0]["content"].get_ref<std::string&>();
  for (int i = 0; i < 1100; ++i) text += " word";
  EXPECT_GT(count(body), 1100);
  const auto refused = anthropic_count_tokens(nano(), message_body(R"({"typo": 1})"), {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "typo");
}

}  // namespace
}  // namespace longshore::server
