// GLM's wire format as clients see it: one test for every rule that servers got wrong, with the
// thread that tells of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/openai/chat.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using engine::FinishReason;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kTools = R"([
  {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
     "s": {"type": "string"}, "n": {"type": "integer"}, "o": {"type": "object"}, "u": {"type": ["string", "null"]}}}}},
  {"type": "function", "function": {"name": "free"}}])";

Json choice_of(const Output& output, const char* more = "{}", const char* tools = kTools) {
  Json body = chat_body(more);
  body["tools"] = Json::parse(tools);
  auto made = openai_chat(nano(), body, {});
  EXPECT_TRUE(made) << (made ? "" : made.error().message);
  Json first;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Outcome run = drive(**made, {output}, seed);
    Json choice = Json::parse((*made)->response(run.completions))["choices"][0];
    if (seed == 0) first = choice;
    EXPECT_EQ(choice["message"], first["message"]) << "seed " << seed;
  }
  return first;
}

Json message_of(const Output& output, const char* more = "{}") {
  return choice_of(output, more)["message"];
}

// The arguments of the call that the model wrote as `call`.
Json arguments(const std::string& call) {
  const Json message = message_of({"x</think>" + call});
  EXPECT_EQ(message["content"], "") << call;
  EXPECT_EQ(message["tool_calls"].size(), 1U) << call;
  return Json::parse(message["tool_calls"][0]["function"]["arguments"].get<std::string>());
}

std::string pair(const std::string& key, const std::string& value) {
  return "<arg_key>" + key + "</arg_key><arg_value>" + value + "</arg_value>";
}

TEST(Wire, CallsRepeatAndOneWithoutArgumentsHasAnEmptyObject) {  // vllm 32213, 32436; sglang 15405
  const Json calls = message_of({"x</think><tool_call>f" + pair("n", "1") +
                                 "</tool_call>\n<tool_call>free</tool_call><tool_call>f" +
                                 pair("n", "2") + "</tool_call>"})["tool_calls"];
  ASSERT_EQ(calls.size(), 3U);
  EXPECT_EQ(calls[0]["function"]["arguments"], R"({"n":1})");
  EXPECT_EQ(calls[1]["function"]["name"], "free");
  EXPECT_EQ(calls[1]["function"]["arguments"], "{}");
  EXPECT_EQ(calls[2]["function"]["arguments"], R"({"n":2})");
}

TEST(Wire, ArgumentsAreTypedByTheSchema) {  // antirez/ds4 569
  EXPECT_EQ(arguments("<tool_call>f" + pair("s", "12") + pair("n", "12") +
                      pair("o", R"({"a": [1]})") + "</tool_call>"),
            Json::parse(R"({"s": "12", "n": 12, "o": {"a": [1]}})"));
  EXPECT_EQ(
      arguments("<tool_call>f" + pair("s", R"({"a": 1})") + pair("n", "twelve") + "</tool_call>"),
      Json::parse(R"({"s": "{\"a\": 1}", "n": "twelve"})"))
      << "strings verbatim; what is no JSON is a string";
  EXPECT_EQ(arguments("<tool_call>free" + pair("a", "12") + pair("b", "\"12\"") +
                      pair("c", "12 apples") + pair("d", "[true]") + "</tool_call>"),
            Json::parse(R"({"a": 12, "b": "\"12\"", "c": "12 apples", "d": [true]})"))
      << "without a schema: JSON that is no string";
}

TEST(Wire, LostTagsAreMadeGood) {  // vllm 49248, 47190
  const Json expected = Json::parse(R"({"s": "a b"})");
  EXPECT_EQ(arguments("<tool_call>f<arg_key>s</arg_key>a b</arg_value></tool_call>"), expected)
      << "lost <arg_value>";
  EXPECT_EQ(arguments("<tool_call>f\ns</arg_key><arg_value>a b</arg_value></tool_call>"), expected)
      << "lost <arg_key>";
}

TEST(Wire, NoMarkupLeaksIntoContent) {  // sglang 30925; vllm 47903
  const std::string call = "<tool_call>f" + pair("s", "a b") + "</tool_call>";
  Json message = message_of({"x</think>yes " + call}, R"({"tool_choice": "none"})");
  EXPECT_THAT(message["content"].get<std::string>(), Not(HasSubstr("<")));
  EXPECT_FALSE(message.contains("tool_calls"));
  for (size_t length = 0; length < call.size(); ++length) {
    const Json choice = choice_of({"x</think>yes" + call.substr(0, length), FinishReason::kLength});
    EXPECT_EQ(choice["finish_reason"], "length");
    EXPECT_THAT(choice["message"]["content"].get<std::string>(), Not(HasSubstr("arg"))) << length;
    EXPECT_THAT(choice["message"]["content"].get<std::string>(), Not(HasSubstr("_call"))) << length;
    if (!choice["message"].contains("tool_calls")) continue;
    const std::string json = choice["message"]["tool_calls"][0]["function"]["arguments"];
    EXPECT_FALSE(Json::accept(json)) << length << ": a call that was cut looks whole: " << json;
  }
}

TEST(Wire, TheJsonFormOfACallIsTaken) {  // sglang 37925
  EXPECT_EQ(arguments(R"(<tool_call>f>{"s": "12", "n": 3}</tool_call>)"),
            Json::parse(R"({"s": "12", "n": 3})"));
}

TEST(Wire, TheOutputHoldsOnlyTheEndOfThinking) {  // vllm 33348
  const Json message = message_of({"because\n</think>\nyes"});
  EXPECT_EQ(message["reasoning_content"], "because");
  EXPECT_EQ(message["content"], "yes");
}

TEST(Wire, AnAnswerThatNeverLeftThinkingIsPromoted) {  // sglang 37645
  EXPECT_EQ(message_of({"forty-two"})["content"], "forty-two");
  const Json cut = message_of({"forty-two", FinishReason::kLength});
  EXPECT_EQ(cut["content"], "") << "it was still thinking";
  EXPECT_EQ(cut["reasoning_content"], "forty-two");
}

TEST(Wire, ACallRightAfterOrInsideThinkingIsACall) {  // vllm 40659
  for (const char* text : {"x</think><tool_call>f</tool_call>", "x<tool_call>f</tool_call>"}) {
    const Json message = message_of({text});
    EXPECT_EQ(message["reasoning_content"], "x") << text;
    EXPECT_EQ(message["content"], "") << text;
    EXPECT_EQ(message["tool_calls"][0]["function"]["name"], "f") << text;
  }
}

TEST(Wire, TheThreeEndTokensStopAndTheAssistantTokenDoesNot) {  // jundot/omlx 3271
  auto made = openai_chat(nano(), chat_body(), {});
  ASSERT_TRUE(made);
  const auto stops = (*made)->take_requests()[0].generation.stop_ids;
  for (const char* token : {"<|endoftext|>", "<|user|>", "<|observation|>"}) {
    EXPECT_THAT(stops, testing::Contains(*nano().tokenizer->id_of(token))) << token;
  }
  EXPECT_THAT(stops, Not(testing::Contains(*nano().tokenizer->id_of("<|assistant|>"))));
}

TEST(Wire, SpecialTokensLeaveNoTextUnlessAskedFor) {
  const auto content = [](const char* more) {
    auto made = openai_chat(nano(), chat_body(more), {});
    return drive(**made, {{"x</think>a<|assistant|>b"}}).completions[0].content;
  };
  EXPECT_EQ(content("{}"), "ab");
  EXPECT_EQ(content(R"({"skip_special_tokens": false})"), "a<|assistant|>b");
}

// What the bundled model does with requests of both kinds, from the body to the answer.
Json ask(const Json& body) {
  auto made = openai_chat(nano(), body, {});
  EXPECT_TRUE(made) << (made ? "" : made.error().message);
  std::vector<session::Job> jobs;
  for (session::CompletionRequest& request : (*made)->take_requests())
    jobs.push_back({std::move(request), {}});
  const CancelToken cancel;
  auto completions = session::complete_all(nano(), std::move(jobs), cancel);
  EXPECT_TRUE(completions) << (completions ? "" : completions.error().message);
  return Json::parse((*made)->response(*completions));
}

TEST(Wire, TheBundledModelCallsATool) {
  const Json answer = ask(
      Json::parse(R"({"temperature": 0, "max_tokens": 100, "reasoning_effort": "none", "messages": [
    {"role": "user", "content": "How is the weather in Dublin today?"}], "tools": [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather in a city", "parameters": {"type": "object", "properties": {"city": {"type":
    "string"}}, "required": ["city"]}}}]})"));
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["name"], "get_weather");
  EXPECT_EQ(
      Json::parse(choice["message"]["tool_calls"][0]["function"]["arguments"].get<std::string>()),
      Json::parse(R"({"city": "Dublin"})"));
  EXPECT_EQ(choice["matched_stop"], kObservationToken);
}

TEST(Wire, TheBundledModelAnswersWithLogprobsInTwoChoices) {
  const Json answer = ask(Json::parse(
      R"({"temperature": 0, "max_tokens": 50, "n": 2, "reasoning_effort": "none", "logprobs": true,
    "top_logprobs": 3, "messages": [{"role": "user", "content": "Goodbye!"}]})"));
  ASSERT_EQ(answer["choices"].size(), 2U);
  for (const Json& choice : answer["choices"]) {
    EXPECT_EQ(choice["message"]["content"], "Goodbye! Have a nice day.");
    std::string text;
    for (const Json& entry : choice["logprobs"]["content"]) {
      text += entry["token"].get<std::string>();
      EXPECT_EQ(entry["top_logprobs"][0]["token"], entry["token"]) << "greedy";
      EXPECT_EQ(entry["top_logprobs"].size(), 3U);
    }
    EXPECT_EQ(text, "Goodbye! Have a nice day.");
  }
}

}  // namespace
}  // namespace longshore::server
