// messages and tools of a chat call, and the prompt that they become.
#include <chrono>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/api/chat_prompt.h"
#include "server/openai/chat.h"
#include "tests/api/support.h"
#include "tests/paths.h"

namespace longshore::server {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string prompt(const std::string& messages, const std::string& more = "") {
  const Json body =
      Json::parse(R"({"messages": )" + messages + (more.empty() ? "" : ", ") + more + "}");
  auto made = openai_chat(nano(), body, {});
  EXPECT_TRUE(made) << messages << ": " << (made ? "" : made.error().message);
  return made ? prompt_of(**made) : "";
}

struct Refusal {
  const char* messages;
  const char* param;
  const char* words;
};

class HistoryRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(HistoryRefuses, ByName) {
  const Refusal& refusal = GetParam();
  Json body;
  body["messages"] = Json::parse(refusal.messages);
  const auto made = openai_chat(nano(), body, {});
  ASSERT_FALSE(made) << refusal.messages;
  EXPECT_EQ(made.error().status, 400);
  EXPECT_EQ(made.error().param, refusal.param) << made.error().message;
  EXPECT_THAT(made.error().message, HasSubstr(refusal.words));
}

INSTANTIATE_TEST_SUITE_P(
    Messages, HistoryRefuses,
    testing::Values(
        Refusal{R"(["hi"])", "messages[0]", "expected an object, got a string"},
        Refusal{R"([{"content": "x"}])", "messages[0].role", "required"},
        Refusal{R"([{"role": 1, "content": "x"}])", "messages[0].role", "expected a string"},
        Refusal{R"([{"role": "robot", "content": "x"}])", "messages[0].role", "robot"},
        Refusal{R"([{"role": "function", "name": "f", "content": "x"}])", "messages[0].role",
                "function"},
        Refusal{R"([{"role": "user"}])", "messages[0].content", "required"},
        Refusal{R"([{"role": "assistant"}])", "messages[0].content", "required"},
        Refusal{R"([{"role": "user", "content": 5}])", "messages[0].content",
                "expected a string or a list of parts"},
        Refusal{R"([{"role": "user", "content": "x"}, {"role": "user", "content": {"text": "x"}}])",
                "messages[1].content", "got an object"},
        Refusal{R"([{"role": "user", "content": [5]}])", "messages[0].content[0]",
                "expected an object"},
        Refusal{R"([{"role": "user", "content": [{"type": "text"}]}])",
                "messages[0].content[0].text", "required"},
        Refusal{R"([{"role": "user", "content": [{"type": "text", "text": 1}]}])",
                "messages[0].content[0].text", "expected a string"},
        Refusal{
            R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}])",
            "messages[0].content[1].type", "image_url"},
        Refusal{R"([{"role": "user", "content": [{"type": "input_audio"}]}])",
                "messages[0].content[0].type", "input_audio"},
        Refusal{R"([{"role": "user", "content": [{"type": "file"}]}])",
                "messages[0].content[0].type", "file"},
        Refusal{R"([{"role": "user", "contents": "x", "content": "y"}])", "messages[0].contents",
                "unknown field"},
        Refusal{R"([{"role": "user", "tool_calls": [], "content": "y"}])", "messages[0].tool_calls",
                "unknown field"},
        Refusal{R"([{"role": "assistant", "content": "y", "reasoning": 4}])",
                "messages[0].reasoning", "expected a string"},
        Refusal{R"([{"role": "assistant", "content": "y", "function_call": {"name": "f"}}])",
                "messages[0].function_call", "tool_calls"},
        Refusal{R"([{"role": "assistant", "tool_calls": {}}])", "messages[0].tool_calls",
                "expected a list"},
        Refusal{R"([{"role": "assistant", "tool_calls": [1]}])", "messages[0].tool_calls[0]",
                "expected an object"},
        Refusal{R"([{"role": "assistant", "tool_calls": [{"id": "a"}]}])",
                "messages[0].tool_calls[0].function", "required"},
        Refusal{
            R"([{"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}])",
            "messages[0].tool_calls[0].type", "function"},
        Refusal{R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}])",
                "messages[0].tool_calls[0].function.name", "required"},
        Refusal{
            R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
            "messages[0].tool_calls[0].function.arguments", "JSON object"},
        Refusal{
            R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}])",
            "messages[0].tool_calls[0].function.arguments", "JSON object"},
        Refusal{R"([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
                    {"role": "tool", "tool_call_id": "b", "content": "x"}])",
                "messages[1].tool_call_id", "no call"},
        Refusal{R"([{"role": "tool", "tool_call_id": "b", "content": "x"}])",
                "messages[0].tool_call_id", "no call"}));

TEST(ChatHistory, ContentIsAStringOrNullOrAListOfParts) {
  const std::string whole = prompt(R"([{"role": "user", "content": "one two"}])");
  EXPECT_EQ(whole, "[gMASK]<sop><|user|>one two<|assistant|><think>");
  EXPECT_EQ(
      prompt(
          R"([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]}])"),
      whole);
  EXPECT_EQ(prompt(R"([{"role": "user", "content": ["one", " two"]}])"), whole);
  EXPECT_EQ(
      prompt(
          R"([{"role": "user", "content": [{"type": "text", "text": "one two", "cache_control": {"type": "ephemeral"}}],
                        "name": "Ann"}])"),
      whole);
  EXPECT_EQ(prompt(R"([{"role": "user", "content": null}])"),
            "[gMASK]<sop><|user|><|assistant|><think>");
}

TEST(ChatHistory, TheDeveloperRoleIsTheSystemRole) {
  EXPECT_EQ(
      prompt(
          R"([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "x"}])"),
      prompt(R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}])"));
  EXPECT_THAT(prompt(R"([{"role": "developer", "content": "Be brief."}])"),
              HasSubstr("<|system|>Be brief."));
}

constexpr const char* kTwoCalls = R"({"role": "user", "content": "go"},
  {"role": "assistant", "content": null, "tool_calls": [
    {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1, \"s\": \"1\"}"}},
    {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": ""}}]})";

TEST(ChatHistory, ArgumentsComeAsStringOrObject) {
  const std::string expected =
      "<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value><arg_key>s</arg_key><arg_value>1</"
      "arg_value></tool_call>"
      "<tool_call>g</tool_call>";
  EXPECT_THAT(prompt("[" + std::string(kTwoCalls) + "]"), HasSubstr(expected));
  EXPECT_THAT(prompt(R"([{"role": "assistant", "tool_calls": [
    {"function": {"name": "f", "arguments": {"x": 1, "s": "1"}}}, {"function": {"name": "g"}}]}])"),
              HasSubstr(expected));
}

TEST(ChatHistory, ARefusalIsOneShortLineWhateverWasSent) {
  Json body = Json::parse(R"({"messages": [{"role": "a\nb", "content": "x"}]})");
  auto made = openai_chat(nano(), body, {});
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr("\"a b\""));
  std::string name;
  for (int i = 0; i < 100000; ++i) name += "\xC3\xA4";
  body[name] = 1;
  body["messages"][0]["role"] = "user";
  made = openai_chat(nano(), body, {});
  ASSERT_FALSE(made);
  EXPECT_LT(made.error().message.size(), 700U);
  EXPECT_TRUE(made.error().message.ends_with("\xC3\xA4..."));
}

TEST(ChatHistory, ArgumentsThatNestWithoutEndAreRefused) {
  std::string deep;
  for (int i = 0; i < 200000; ++i) deep += "{\"a\":";
  deep += "1" + std::string(200000, '}');
  Json body = Json::parse(
      R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]})");
  body["messages"][0]["tool_calls"][0]["function"]["arguments"] = deep;
  const auto made = openai_chat(nano(), body, {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().param, "messages[0].tool_calls[0].function.arguments");
}

TEST(ChatHistory, ToolResultsTakeTheOrderOfTheCalls) {
  const std::string expected =
      "<|observation|><tool_response>first</tool_response><tool_response>second</tool_response>";
  const std::string start = "[" + std::string(kTwoCalls);
  EXPECT_THAT(prompt(start + R"(, {"role": "tool", "tool_call_id": "call_b", "content": "second"},
                                  {"role": "tool", "tool_call_id": "call_a", "content": "first"}])"),
              HasSubstr(expected));
  EXPECT_THAT(prompt(start + R"(, {"role": "tool", "tool_call_id": "call_a", "content": "first"},
                                  {"role": "tool", "tool_call_id": "call_b", "content": "second"}])"),
              HasSubstr(expected));
  EXPECT_THAT(
      prompt(start +
             R"(, {"role": "tool", "content": "first"}, {"role": "tool", "content": "second"}])"),
      HasSubstr(expected))
      << "without ids the order is as given";
}

TEST(ChatHistory, ALongRunOfResultsIsSortedInLinearTime) {
  constexpr size_t kCalls = 50'000;
  const auto id = [](size_t i) { return "call_of_a_certain_length_" + std::to_string(i); };
  Json calls = Json::array();
  for (size_t i = 0; i < kCalls; ++i) calls.push_back({{"id", id(i)}});
  Json messages = Json::array({Json{{"role", "assistant"}, {"tool_calls", std::move(calls)}}});
  for (size_t i = kCalls; i-- > 0;) messages.push_back({{"role", "tool"}, {"tool_call_id", id(i)}});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(sort_tool_results(messages));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), 1.0) << "by comparing each with each it takes minutes";
  for (size_t i = 0; i < kCalls; ++i) ASSERT_EQ(messages[i + 1]["tool_call_id"], id(i));
  messages.back()["tool_call_id"] = "of no call";
  EXPECT_EQ(sort_tool_results(messages), kCalls);
}

TEST(ChatHistory, ListContentOfToolResultsIsFlattened) {
  EXPECT_THAT(prompt("[" + std::string(kTwoCalls) + R"(, {"role": "tool", "tool_call_id": "call_a",
    "content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "rst"}]}])"),
              HasSubstr("<tool_response>first</tool_response>"));
}

TEST(ChatHistory, ReasoningHasTwoNamesAndStaysAfterTheLastUserOnly) {
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const std::string turn =
        std::string(R"({"role": "assistant", "content": "b", ")") + name + R"(": "why"})";
    const std::string user = R"({"role": "user", "content": "a"})";
    EXPECT_THAT(prompt("[" + user + "," + turn + "]"), HasSubstr("<think>why</think>b"));
    EXPECT_THAT(prompt("[" + user + "," + turn + "," + user + "]"),
                HasSubstr("<|assistant|></think>b"));
    for (const char* keep : {R"("chat_template_kwargs": {"clear_thinking": false})",
                             R"("thinking": {"type": "enabled", "clear_thinking": false})"}) {
      EXPECT_THAT(prompt("[" + user + "," + turn + "," + user + "]", keep),
                  HasSubstr("<think>why</think>b"))
          << keep;
    }
  }
}

TEST(ChatHistory, AnAnswerCanComeBackAsItWasGiven) {
  EXPECT_THAT(
      prompt(
          R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": null,
    "refusal": null, "annotations": [], "audio": null, "function_call": null, "tool_calls": null}, {"role": "user", "content": "c"}])"),
      HasSubstr("<|assistant|></think>b<|user|>c"));
}

TEST(ChatHistory, AMessageObjectOfOpenAisClientCanComeBackWhole) {
  EXPECT_THAT(
      prompt(
          R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "parsed": null, "reasoning_content": "r",
    "anything_new": null, "tool_calls": [{"id": "a", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}",
    "parsed_arguments": {}}}]}, {"role": "tool", "tool_call_id": "a", "name": "f", "content": "c"}])"),
      HasSubstr("<think>r</think><tool_call>f</tool_call><|observation|>"));
}

TEST(ChatHistory, TheFinalMessageIsContinued) {
  const std::string talk =
      R"([{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one, two,"}])";
  const std::string on = R"("continue_final_message": true)";
  EXPECT_TRUE(prompt(talk, on).ends_with("<|assistant|><think></think>one, two,"));
  EXPECT_TRUE(prompt(talk).ends_with("one, two,<|assistant|><think>"));
  auto made = openai_chat(nano(), Json::parse(R"({"messages": )" + talk + "," + on + "}"), {});
  ASSERT_TRUE(made);
  const Outcome run = drive(**made, {{" three"}});
  EXPECT_EQ(run.completions[0].content, " three");
  EXPECT_EQ(run.completions[0].reasoning, "");
  for (const char* bad :
       {R"([{"role": "user", "content": "Count."}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])"}) {
    const auto refused = openai_chat(
        nano(), Json::parse(R"({"messages": )" + std::string(bad) + "," + on + "}"), {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().param, "continue_final_message");
  }
}

constexpr const char* kTool =
    R"({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}})";

TEST(ChatHistory, ToolsAreShownUnlessTheChoiceIsNone) {
  const std::string user = R"([{"role": "user", "content": "a"}])";
  const std::string tools = R"("tools": [)" + std::string(kTool) + "]";
  const std::string line = R"({"name": "f", "description": "d", "parameters": {"type": "object"}})";
  EXPECT_THAT(prompt(user, tools), HasSubstr(line));
  EXPECT_THAT(prompt(user, tools + R"(, "tool_choice": "auto")"), HasSubstr(line));
  EXPECT_EQ(prompt(user, tools + R"(, "tool_choice": "none")"), prompt(user));
}

TEST(ChatHistory, ToolsAreRefusedByName) {
  for (const auto& [tools, param] : std::vector<std::pair<std::string, std::string>>{
           {R"([1])", "tools[0]"},
           {R"([{"type": "function"}])", "tools[0].function"},
           {R"([{"type": "web_search"}])", "tools[0].type"},
           {R"([{"type": "function", "function": {}}])", "tools[0].function.name"},
           {R"([{"type": "function", "function": {"name": 1}}])", "tools[0].function.name"},
           {R"([{"type": "function", "function": {"name": "f", "description": 1}}])",
            "tools[0].function.description"},
           {R"([{"type": "function", "function": {"name": "f", "parameters": []}}])",
            "tools[0].function.parameters"},
           {R"([{"type": "function", "function": {"name": "f", "strict": 1}}])",
            "tools[0].function.strict"},
           {R"([{"type": "function", "function": {"name": "f", "strict": true, "parameters":
            {"properties": {"a": {"if": {}}}}}}])",
            "tools[0].function.parameters"},
           {R"([{"type": "function", "function": {"name": "f", "extra": 1}}])",
            "tools[0].function.extra"},
           {"[" + std::string(kTool) + "," + kTool + "]", "tools[1].function.name"}}) {
    Json body = chat_body();
    body["tools"] = Json::parse(tools);
    const auto made = openai_chat(nano(), body, {});
    ASSERT_FALSE(made) << tools;
    EXPECT_EQ(made.error().param, param) << made.error().message;
  }
}

// What the public tasks were rendered to when the model was trained.
TEST(ChatHistory, TheTasksPromptsComeOutExactly) {
  std::ifstream stream(longshore::source_dir() + "/tests/data/eval/tasks-public.jsonl");
  size_t seen = 0;
  for (std::string line; std::getline(stream, line);) {
    const Json task = Json::parse(line);
    Json body = {{"messages", task["messages"]},
                 {"chat_template_kwargs", {{"enable_thinking", task["enable_thinking"]}}}};
    if (task.contains("tools")) body["tools"] = task["tools"];
    auto made = openai_chat(nano(), body, {});
    if (!made && made.error().code == "context_length_exceeded") continue;  // of this test's model
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_EQ(prompt_of(**made), task["prompt_text"].get<std::string>());
    ++seen;
  }
  EXPECT_GT(seen, 200U);
}

}  // namespace
}  // namespace longshore::server
