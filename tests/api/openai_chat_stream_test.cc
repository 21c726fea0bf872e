// The stream of a chat call: order and shape of its chunks, and that it says what the whole answer
// says.
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/openai/chat.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using engine::FinishReason;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr const char* kTools = R"("tools": [
  {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties":
    {"text": {"type": "string"}, "count": {"type": "integer"}}}}},
  {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}])";
constexpr const char* kCalls =
    "Let me see.</think>I ask twice.\n<tool_call>find<arg_key>text</arg_key><arg_value>a \"b\" "
    "\xC3\xBC 12</arg_value>"
    "<arg_key>count</arg_key><arg_value>3</arg_value></tool_call><tool_call>now</tool_call>";

std::unique_ptr<Exchange> chat(const std::string& more) {
  auto made = openai_chat(nano(), chat_body(more.c_str()), {.served_model = "glm-nano"});
  EXPECT_TRUE(made) << more << ": " << (made ? "" : made.error().message);
  return made ? std::move(*made) : nullptr;
}

std::string calling(const std::string& more) {
  return "{" + std::string(kTools) + more + "}";
}

// The chunks; the last data must be [DONE].
std::vector<Json> chunks_of(const std::string& stream) {
  std::vector<Event> events = events_of(stream);
  std::vector<Json> chunks;
  EXPECT_FALSE(events.empty());
  if (events.empty()) return chunks;
  EXPECT_EQ(events.back().data, "[DONE]");
  events.pop_back();
  for (const Event& event : events) {
    EXPECT_EQ(event.name, "");
    chunks.push_back(Json::parse(event.data));
  }
  return chunks;
}

// One choice put together from its chunks, in the form of a whole answer's choice.
Json gathered(const std::vector<Json>& chunks, size_t index) {
  Json message = {{"role", nullptr}, {"content", ""}, {"reasoning_content", nullptr}};
  Json choice = {{"index", index}};
  Json logprobs;
  for (const Json& chunk : chunks) {
    if (chunk["choices"].empty() || chunk["choices"][0]["index"] != index) continue;
    const Json& one = chunk["choices"][0];
    EXPECT_FALSE(choice.contains("finish_reason")) << "a chunk after the last";
    const Json& delta = one["delta"];
    if (delta.contains("role")) message["role"] = delta["role"];
    if (delta.contains("content"))
      message["content"] =
          message["content"].get<std::string>() + delta["content"].get<std::string>();
    if (delta.contains("reasoning_content")) {
      const std::string before = message["reasoning_content"].is_null()
                                     ? ""
                                     : message["reasoning_content"].get<std::string>();
      message["reasoning_content"] = before + delta["reasoning_content"].get<std::string>();
    }
    if (delta.contains("tool_calls")) {
      Json call = delta["tool_calls"][0];
      const size_t at = call["index"].get<size_t>();
      call.erase("index");
      if (call.contains("id")) {
        EXPECT_EQ(message.value("tool_calls", Json::array()).size(), at);
        EXPECT_EQ(call["function"]["arguments"], "");
        message["tool_calls"].push_back(call);
      } else {
        EXPECT_EQ(call.size(), 1U) << "no null id or name: " << call;
        EXPECT_EQ(call["function"].size(), 1U);
        std::string& all =
            message["tool_calls"][at]["function"]["arguments"].get_ref<std::string&>();
        all += call["function"]["arguments"].get<std::string>();
      }
    }
    if (!one["logprobs"].is_null()) {
      for (const Json& entry : one["logprobs"]["content"]) logprobs["content"].push_back(entry);
    }
    if (!one["finish_reason"].is_null()) {
      EXPECT_EQ(delta, Json::object());
      choice["finish_reason"] = one["finish_reason"];
      choice["matched_stop"] = one["matched_stop"];
    }
  }
  choice["message"] = std::move(message);
  choice["logprobs"] = std::move(logprobs);
  return choice;
}

// Every split of the output gives the same, as a stream and whole.
void expect_same(const std::string& more, const std::vector<Output>& outputs) {
  Json whole;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const auto exchange = chat(more);
    const Outcome run = drive(*exchange, outputs, seed);
    const Json answer = Json::parse(exchange->response(run.completions));
    const std::vector<Json> chunks = chunks_of(run.events);
    for (size_t i = 0; i < outputs.size(); ++i) {
      Json choice = gathered(chunks, i);
      ASSERT_EQ(choice.size(), answer["choices"][i].size());
      for (const auto& [name, value] : answer["choices"][i].items()) {
        ASSERT_EQ(choice[name], value) << name << " of choice " << i << " with seed " << seed;
      }
    }
    Json message = answer["choices"];
    for (Json& choice : message) {
      choice.erase("logprobs");  // of other tokens
      if (choice["message"].contains("tool_calls")) {
        for (Json& call : choice["message"]["tool_calls"]) call.erase("id");
      }
    }
    if (seed == 0) whole = message;
    ASSERT_EQ(message, whole) << "seed " << seed;
  }
}

TEST(ChatStream, EqualsTheWholeAnswerAtAnySplit) {
  expect_same(R"({"stream": true})",
              {{"So.</think>Gr\xC3\xBC\xC3\x9F Gott, \xF0\x9F\x98\x80 und guten Tag"}});
  expect_same(R"({"stream": true, "logprobs": true, "top_logprobs": 2})",
              {{"So.</think>\xC3\xA4\xE2\x82\xAC abc"}});
  expect_same(calling(R"(, "stream": true, "logprobs": true)"),
              {{kCalls, FinishReason::kStopId, kObservationToken}});
  expect_same(calling(R"(, "stream": true, "parallel_tool_calls": false)"),
              {{kCalls, FinishReason::kStopId, kObservationToken}});
  expect_same(calling(R"(, "stream": true, "tool_choice": "none")"), {{kCalls}});
  expect_same(calling(R"(, "stream": true)"),
              {{std::string(kCalls) + "and text", FinishReason::kLength}});
  expect_same(R"({"stream": true, "n": 3})",
              {{"a</think>b"}, {"c d e", FinishReason::kLength}, {"f"}});
  expect_same(R"({"stream": true, "stop": ["END", "\n\n"]})", {{"x</think>one EN two END three"}});
  expect_same(
      R"({"stream": true, "stop": ["END"], "no_stop_trim": true, "skip_special_tokens": false})",
      {{"x</think>one END"}});
  expect_same(
      R"({"stream": true, "skip_special_tokens": false, "no_stop_trim": true, "logprobs": true})",
      {{"x</think>one"}});
  expect_same(R"({"stream": true, "separate_reasoning": false})", {{"x</think>one"}});
  expect_same(R"({"stream": true, "stream_reasoning": false})", {{"x y z</think>one"}});
  expect_same(R"({"stream": true, "stream_reasoning": false})", {{"x y z", FinishReason::kLength}});
  expect_same(calling(R"(, "stream": true, "stream_reasoning": false)"),
              {{"x<tool_call>now</tool_call>"}});
  expect_same(R"({"stream": true, "include_reasoning": false})", {{"x y z</think>one"}});
  expect_same(R"({"stream": true, "reasoning_effort": "none"})", {{"plain text"}});
  expect_same(R"({"stream": true, "ignore_eos": true})", {{"x</think>a b", FinishReason::kLength}});
}

TEST(ChatStream, ReasoningThatNeverEndedIsTheAnswer) {
  expect_same(R"({"stream": true})", {{"forty-two"}});
  const auto exchange = chat("{}");
  const Json answer =
      Json::parse(exchange->response(drive(*exchange, {{"forty-two"}}).completions));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "forty-two");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
}

TEST(ChatStream, ChunksComeInOrder) {
  const auto exchange =
      chat(calling(R"(, "stream": true, "stream_options": {"include_usage": true})"));
  EXPECT_TRUE(exchange->streams());
  const Outcome run = drive(*exchange, {{kCalls, FinishReason::kStopId, kObservationToken}}, 7);
  const std::vector<Json> chunks = chunks_of(run.events);
  // 1 role, 2 reasoning, content, 3 calls, 4 finish, 5 usage.
  EXPECT_EQ(chunks.front()["choices"][0]["delta"],
            Json::parse(R"({"role": "assistant", "content": ""})"));
  std::string order;
  for (size_t i = 1; i < chunks.size(); ++i) {
    const Json& chunk = chunks[i];
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["id"], chunks[0]["id"]);
    EXPECT_EQ(chunk["created"], chunks[0]["created"]);
    EXPECT_EQ(chunk["model"], "glm-nano");
    if (chunk["choices"].empty()) {
      order += 'u';
      continue;
    }
    EXPECT_TRUE(chunk["usage"].is_null());
    const Json& delta = chunk["choices"][0]["delta"];
    EXPECT_LE(delta.size(), 1U);
    char kind = delta.empty()                         ? 'f'
                : delta.contains("reasoning_content") ? 'r'
                : delta.contains("content")           ? 'c'
                                                      : 'a';
    if (kind == 'a' && delta["tool_calls"][0].contains("id")) kind = 't';
    if (kind == 't') {
      EXPECT_THAT(delta["tool_calls"][0]["id"].get<std::string>(), MatchesRegex("call_[0-9a-f]+"));
      EXPECT_EQ(delta["tool_calls"][0]["id"].get<std::string>().size(), 29U);
      EXPECT_EQ(delta["tool_calls"][0]["type"], "function");
    }
    if (order.empty() || order.back() != kind) order += kind;
  }
  EXPECT_EQ(order, "rctatafu");
  EXPECT_EQ(chunks[chunks.size() - 2]["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_EQ(chunks[chunks.size() - 2]["choices"][0]["matched_stop"], kObservationToken);
}

TEST(ChatStream, IdsAreUniqueAndOfTheRightForm) {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const auto exchange = chat(calling(""));
    const Json answer = Json::parse(exchange->response(drive(*exchange, {{kCalls}}).completions));
    EXPECT_THAT(answer["id"].get<std::string>(), MatchesRegex("chatcmpl-[0-9a-f]+"));
    ids.insert(answer["id"].get<std::string>());
    for (const Json& call : answer["choices"][0]["message"]["tool_calls"]) {
      EXPECT_THAT(call["id"].get<std::string>(), MatchesRegex("call_[0-9a-f]+"));
      EXPECT_EQ(call["id"].get<std::string>().size(), 29U) << "call_ and 24 digits";
      ids.insert(call["id"].get<std::string>());
    }
  }
  EXPECT_EQ(ids.size(), 300U);
}

TEST(ChatStream, UsageComesLastWithEmptyChoicesWhenAskedFor) {
  const auto exchange =
      chat(R"({"stream": true, "n": 2, "stream_options": {"include_usage": true}})");
  const Outcome run = drive(*exchange, {{"a b c</think>d"}, {"e</think>f"}}, 3);
  const std::vector<Json> chunks = chunks_of(run.events);
  EXPECT_EQ(chunks.back()["choices"], Json::array());
  const Json answer = Json::parse(exchange->response(run.completions));
  EXPECT_EQ(chunks.back()["usage"], answer["usage"]);
  for (size_t i = 0; i + 1 < chunks.size(); ++i) EXPECT_TRUE(chunks[i].at("usage").is_null());
  const auto plain = chat(R"({"stream": true})");
  for (const Json& chunk : chunks_of(drive(*plain, {{"a</think>d"}}).events)) {
    EXPECT_FALSE(chunk["choices"].empty());
    EXPECT_FALSE(chunk.contains("usage"));
  }
}

TEST(ChatStream, UsageCountsPromptOnceAndEveryChoice) {
  const auto exchange = chat(R"({"n": 2})");
  const Outcome run = drive(*exchange, {{"a b c</think>d"}, {"e</think>f"}});
  const Json usage = Json::parse(exchange->response(run.completions))["usage"];
  const int64_t prompt = run.completions[0].stats.prompt_tokens;
  const int64_t output =
      run.completions[0].stats.output_tokens + run.completions[1].stats.output_tokens;
  const int64_t reasoning =
      run.completions[0].reasoning_tokens + run.completions[1].reasoning_tokens;
  EXPECT_GT(reasoning, 3);
  EXPECT_EQ(usage["prompt_tokens"], prompt);
  EXPECT_EQ(usage["completion_tokens"], output);
  EXPECT_EQ(usage["total_tokens"], prompt + output);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 3);
  EXPECT_EQ(usage["reasoning_tokens"], reasoning);
  EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], reasoning);
}

TEST(ChatStream, ContinuousUsageGrowsWithEveryChunk) {
  const auto exchange = chat(
      R"({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}})");
  const Outcome run = drive(*exchange, {{"a b c</think>d e f"}});
  int64_t last = 0;
  for (const Json& chunk : chunks_of(run.events)) {
    const Json& usage = chunk["usage"];
    ASSERT_TRUE(usage.is_object()) << chunk;
    EXPECT_GE(usage["completion_tokens"], last);
    last = usage["completion_tokens"];
    EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int64_t>() + last);
    EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 3);
  }
  EXPECT_EQ(last, run.completions[0].stats.output_tokens);
}

TEST(ChatStream, FinishReasonsAndMatchedStop) {
  const auto last = [](const std::string& more, const Output& output) {
    const auto exchange = chat(more);
    return Json::parse(exchange->response(drive(*exchange, {output}).completions))["choices"][0];
  };
  Json choice = last("{}", {"a</think>b"});
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["matched_stop"], kUserToken) << "the id";
  choice = last(R"({"stop": "b"})", {"a</think>abc"});
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["matched_stop"], "b");
  EXPECT_EQ(choice["message"]["content"], "a");
  choice = last(R"({"stop": "b", "no_stop_trim": true})", {"a</think>abc"});
  EXPECT_EQ(choice["message"]["content"], "ab");
  choice = last("{}", {"a</think>b", FinishReason::kLength});
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_TRUE(choice["matched_stop"].is_null());
  choice = last(calling(""), {kCalls, FinishReason::kStopId, kObservationToken});
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  choice = last(calling(""), {kCalls, FinishReason::kLength});
  EXPECT_EQ(choice["finish_reason"], "length") << "stays, calls or not";
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 2U);
}

TEST(ChatStream, ContentIsEmptyBesideCallsAndReasoningIsNullWhereThereIsNone) {
  const auto exchange = chat(calling(R"(, "reasoning_effort": "none")"));
  const Json answer = Json::parse(
      exchange->response(drive(*exchange, {{"<tool_call>now</tool_call>"}}).completions));
  const Json& message = answer["choices"][0]["message"];
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_GT(answer["created"], 1700000000);
  EXPECT_EQ(answer["model"], "glm-nano");
  EXPECT_EQ(message["role"], "assistant");
  EXPECT_EQ(message["content"], "");
  EXPECT_TRUE(message.at("reasoning_content").is_null());
  EXPECT_EQ(message["tool_calls"][0]["function"],
            Json::parse(R"({"name": "now", "arguments": "{}"})"));
  EXPECT_TRUE(answer["choices"][0].at("logprobs").is_null());
  const auto plain = chat("{}");
  EXPECT_FALSE(Json::parse(plain->response(
      drive(*plain, {{"x</think>y"}}).completions))["choices"][0]["message"]
                   .contains("tool_calls"));
}

TEST(ChatStream, LogprobsHaveTextBytesAndTheTop) {
  const auto exchange =
      chat(R"({"logprobs": true, "top_logprobs": 2, "reasoning_effort": "none"})");
  const Outcome run = drive(*exchange, {{"\xC3\xA4 abc"}}, 5);
  const Json answer = Json::parse(exchange->response(run.completions));
  std::string bytes;
  const Json& entries = answer["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(entries.size() + 1, run.completions[0].ids.size()) << "all but the stop token";
  for (const Json& entry : entries) {
    for (const Json& byte : entry["bytes"]) bytes += static_cast<char>(byte.get<int>());
    EXPECT_LE(entry["logprob"], 0);
    ASSERT_EQ(entry["top_logprobs"].size(), 2U);
    EXPECT_EQ(entry["top_logprobs"][0]["token"], entry["token"]);
    EXPECT_EQ(entry["top_logprobs"][0]["bytes"], entry["bytes"]);
    EXPECT_FALSE(entry["top_logprobs"][0].contains("top_logprobs"));
  }
  EXPECT_EQ(bytes, "\xC3\xA4 abc");
}

TEST(ChatStream, AFailureAfterTheStreamBeganIsAnErrorAndDone) {
  const auto exchange = chat(R"({"stream": true, "n": 2})");
  std::string stream = exchange->begin({});
  stream += exchange->failed({.status = 500, .message = "it broke", .param = {}, .code = {}});
  EXPECT_EQ(exchange->failed({}), "") << "once";
  session::Progress late;
  late.deltas.push_back({text::OutputDelta::Kind::kContent, 0, "x"});
  EXPECT_EQ(exchange->progress(0, late), "");
  EXPECT_EQ(exchange->finished(1, {}), "");
  const std::vector<Json> chunks = chunks_of(stream);
  EXPECT_EQ(
      chunks.back(),
      Json::parse(
          R"({"error": {"message": "it broke", "type": "server_error", "param": null, "code": null}})"));
}

TEST(ChatStream, ACompletionThatFailedIsAnError) {
  for (const auto& [reason, words] :
       std::map<FinishReason, const char*>{{FinishReason::kFault, "logits are not numbers"},
                                           {FinishReason::kDeadline, "deadline"},
                                           {FinishReason::kCancelled, "cancelled"}}) {
    const auto exchange = chat(R"({"stream": true, "n": 2})");
    const Outcome run =
        drive(*exchange, {{"x", reason}, {"y z</think>more and more text that comes later"}}, 1);
    EXPECT_THAT(chunks_of(run.events).back()["error"]["message"].get<std::string>(),
                HasSubstr(words));
  }
}

TEST(ChatStream, KeepAliveIsAComment) {
  const auto exchange = chat(R"({"stream": true})");
  for (const bool begun : {false, true}) {
    EXPECT_TRUE(exchange->keep_alive(begun).starts_with(":"));
    EXPECT_TRUE(exchange->keep_alive(begun).ends_with("\n\n"));
  }
}

TEST(ChatStream, NothingElseIsSentWhereNoStreamWasAskedFor) {
  EXPECT_FALSE(chat("{}")->streams());
}

}  // namespace
}  // namespace longshore::server
