// The events of /v1/messages, and that they say what the whole answer says.
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/anthropic/messages.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using engine::FinishReason;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr const char* kTools = R"("tools": [
  {"name": "find", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}},
  {"name": "now", "input_schema": {"type": "object", "properties": {}}}], "stream": true)";
constexpr const char* kThink = R"(, "thinking": {"type": "enabled", "budget_tokens": 1024})";
constexpr const char* kCalls =
    "Let me see.</think>I ask twice.\n<tool_call>find<arg_key>text</arg_key><arg_value>a \"b\" "
    "\xC3\xBC 12</arg_value>"
    "<arg_key>count</arg_key><arg_value>3</arg_value></tool_call><tool_call>now</tool_call>";

std::unique_ptr<Exchange> message(const std::string& fields) {
  auto made = anthropic_messages(nano(), message_body(("{" + fields + "}").c_str()),
                                 {.served_model = "glm-nano"});
  EXPECT_TRUE(made) << fields << ": " << (made ? "" : made.error().message);
  return made ? std::move(*made) : nullptr;
}

Json answer_of(const std::string& fields, const Output& output) {
  const auto exchange = message(fields);
  return Json::parse(exchange->response(drive(*exchange, {output}).completions));
}

// The message put together from its events, every rule of their order checked.
Json gathered(const std::string& stream) {
  Json message;
  Json block;
  std::string json;
  int open = -1;
  bool stopped = false;
  bool cut = false;  // the last block is a call whose input is not whole
  for (const Event& event : events_of(stream)) {
    const Json data = Json::parse(event.data);
    EXPECT_EQ(data["type"], event.name);
    EXPECT_FALSE(stopped) << "an event after message_stop";
    if (event.name == "message_start") {
      EXPECT_TRUE(message.is_null());
      message = data["message"];
      EXPECT_EQ(message["content"], Json::array());
      EXPECT_TRUE(message["stop_reason"].is_null());
    } else if (event.name == "content_block_start") {
      EXPECT_EQ(open, -1) << "the block before is still open";
      open = data["index"].get<int>();
      EXPECT_EQ(open, static_cast<int>(message["content"].size()));
      block = data["content_block"];
      json.clear();
    } else if (event.name == "content_block_delta") {
      EXPECT_EQ(data["index"], open);
      const Json& delta = data["delta"];
      const std::string type = delta["type"];
      const auto append = [&](const char* field) {
        block[field] = block[field].get<std::string>() + delta[field].get<std::string>();
      };
      if (type == "text_delta") append("text");
      if (type == "thinking_delta") append("thinking");
      if (type == "signature_delta") append("signature");
      if (type == "input_json_delta") json += delta["partial_json"].get<std::string>();
    } else if (event.name == "content_block_stop") {
      EXPECT_EQ(data["index"], open);
      EXPECT_FALSE(cut) << "only the last block can be cut";
      if (block["type"] == "tool_use") {
        block["input"] = Json::parse(json, nullptr, /*allow_exceptions=*/false);
        cut = block["input"].is_discarded();
      }
      message["content"].push_back(block);
      open = -1;
    } else if (event.name == "message_delta") {
      EXPECT_EQ(open, -1);
      message["stop_reason"] = data["delta"]["stop_reason"];
      message["stop_sequence"] = data["delta"]["stop_sequence"];
      message["usage"] = data["usage"];
    } else if (event.name == "message_stop") {
      stopped = true;
    } else {
      ADD_FAILURE() << event.name;
    }
  }
  EXPECT_TRUE(stopped);
  if (cut) {  // which the whole answer does not show
    EXPECT_EQ(message["stop_reason"], "max_tokens");
    message["content"].erase(message["content"].size() - 1);
  }
  return message;
}

void expect_same(const std::string& fields, const Output& output) {
  Json whole;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const auto exchange = message(fields);
    const Outcome run = drive(*exchange, {output}, seed);
    Json answer = Json::parse(exchange->response(run.completions));
    ASSERT_EQ(gathered(run.events), answer) << fields << " seed " << seed;
    answer.erase("usage");
    answer.erase("id");
    for (Json& block : answer["content"]) block.erase("id");
    if (seed == 0) whole = answer;
    ASSERT_EQ(answer, whole) << fields << " seed " << seed;
  }
}

TEST(MessageStream, EqualsTheWholeAnswerAtAnySplit) {
  expect_same(R"("stream": true)", {"Gr\xC3\xBC\xC3\x9F Gott, \xF0\x9F\x98\x80 und guten Tag"});
  expect_same(std::string(R"("stream": true)") + kThink, {"Hm, so.</think>Tag"});
  expect_same(std::string(R"("stream": true)") + kThink, {"Hm, so", FinishReason::kLength});
  expect_same(std::string(R"("stream": true)") + kThink, {"forty-two"});
  expect_same(std::string(kTools) + kThink, {kCalls, FinishReason::kStopId, kObservationToken});
  expect_same(std::string(kTools) + kThink, {std::string(kCalls) + "text after the calls"});
  expect_same(std::string(kTools) + kThink,
              {std::string(kCalls).substr(0, 100), FinishReason::kLength});
  expect_same(kTools, {"<tool_call>now<arg_key>", FinishReason::kLength});
  expect_same(std::string(kTools) +
                  R"(, "tool_choice": {"type": "auto", "disable_parallel_tool_use": true})",
              {kCalls});
  expect_same(std::string(kTools) + R"(, "tool_choice": {"type": "none"})", {kCalls});
  expect_same(R"("stream": true, "stop_sequences": ["END"])", {"one EN two END three"});
  expect_same(R"("stream": true, "thinking": {"type": "adaptive", "display": "omitted"})",
              {"Hm, so.</think>Tag"});
}

TEST(MessageStream, EventsComeInOrder) {
  const auto exchange = message(std::string(kTools) + kThink);
  EXPECT_TRUE(exchange->streams());
  const Outcome run = drive(*exchange, {{kCalls, FinishReason::kStopId, kObservationToken}}, 3);
  std::vector<std::string> order;
  for (const Event& event : events_of(run.events)) {
    const Json data = Json::parse(event.data);
    std::string name = event.name;
    if (name == "content_block_start")
      name = "start " + data["content_block"]["type"].get<std::string>();
    if (name == "content_block_delta") name = data["delta"]["type"];
    if (name == "content_block_stop") name = "stop";
    if (order.empty() || order.back() != name) order.push_back(name);
  }
  EXPECT_THAT(order,
              testing::ElementsAre("message_start", "start thinking", "thinking_delta",
                                   "signature_delta", "stop", "start text", "text_delta", "stop",
                                   "start tool_use", "input_json_delta", "stop", "start tool_use",
                                   "input_json_delta", "stop", "message_delta", "message_stop"));
}

TEST(MessageStream, BlocksStartEmptyAndCarryTheirIds) {
  const auto exchange = message(std::string(kTools) + kThink);
  const Outcome run = drive(*exchange, {{kCalls}});
  std::vector<Json> blocks;
  for (const Event& event : events_of(run.events)) {
    if (event.name == "content_block_start")
      blocks.push_back(Json::parse(event.data)["content_block"]);
  }
  ASSERT_EQ(blocks.size(), 4U);
  EXPECT_EQ(blocks[0], Json::parse(R"({"type": "thinking", "thinking": "", "signature": ""})"));
  EXPECT_EQ(blocks[1], Json::parse(R"({"type": "text", "text": ""})"));
  EXPECT_THAT(blocks[2]["id"].get<std::string>(), MatchesRegex("toolu_[0-9a-f]+"));
  EXPECT_NE(blocks[2]["id"], blocks[3]["id"]);
  blocks[3].erase("id");
  EXPECT_EQ(blocks[3], Json::parse(R"({"type": "tool_use", "name": "now", "input": {}})"));
}

TEST(MessageStream, TheStartCarriesTheRealInputTokensAndTheCachedOnesApart) {
  const auto exchange = message(R"("stream": true)");
  const Outcome run = drive(*exchange, {{"a"}});
  const Json start = Json::parse(events_of(run.events).front().data)["message"];
  EXPECT_EQ(start["usage"]["input_tokens"], run.completions[0].stats.prompt_tokens - 3);
  EXPECT_GT(start["usage"]["input_tokens"], 0);
  EXPECT_EQ(start["usage"]["cache_read_input_tokens"], 3);
  EXPECT_EQ(start["usage"]["cache_creation_input_tokens"], 0);
  EXPECT_EQ(start["usage"]["output_tokens"], 0);
  EXPECT_EQ(start["type"], "message");
  EXPECT_EQ(start["role"], "assistant");
  EXPECT_EQ(start["model"], "glm-nano");
  EXPECT_THAT(start["id"].get<std::string>(), MatchesRegex("msg_[0-9a-f]+"));
  const Json last = gathered(run.events);
  EXPECT_EQ(last["usage"]["output_tokens"], run.completions[0].stats.output_tokens);
  EXPECT_EQ(last["usage"]["input_tokens"], start["usage"]["input_tokens"]);
}

TEST(MessageStream, StopReasons) {
  EXPECT_EQ(answer_of("", {"a"})["stop_reason"], "end_turn");
  EXPECT_TRUE(answer_of("", {"a"})["stop_sequence"].is_null());
  EXPECT_EQ(answer_of("", {"a", FinishReason::kLength})["stop_reason"], "max_tokens");
  const Json stopped = answer_of(R"("stop_sequences": ["b"])", {"abc"});
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "b");
  EXPECT_EQ(stopped["content"][0]["text"], "a");
  EXPECT_EQ(answer_of(kTools, {"<tool_call>now</tool_call>", FinishReason::kStopId,
                               kObservationToken})["stop_reason"],
            "tool_use");
  EXPECT_EQ(answer_of(kTools, {"<tool_call>now</tool_call>", FinishReason::kLength})["stop_reason"],
            "max_tokens");
}

TEST(MessageStream, ACallThatIsCutDoesNotLookWhole) {
  const Output cut{"A<tool_call>now<arg_key>zone</arg_key><arg_value>U", FinishReason::kLength};
  const Json answer = answer_of(kTools, cut);
  EXPECT_EQ(answer["stop_reason"], "max_tokens");
  ASSERT_EQ(answer["content"].size(), 1U) << answer;
  EXPECT_EQ(answer["content"][0]["text"], "A");
  const auto exchange = message(kTools);
  std::string input;
  bool begun = false;
  for (const Event& event : events_of(drive(*exchange, {cut}).events)) {
    const Json data = Json::parse(event.data);
    if (event.name == "content_block_start") begun = data["content_block"]["type"] == "tool_use";
    if (event.name == "content_block_delta" && begun)
      input += data["delta"]["partial_json"].get<std::string>();
  }
  EXPECT_TRUE(begun);
  EXPECT_FALSE(input.empty()) << "which clients take for {}";
  EXPECT_FALSE(Json::accept(input)) << input;
}

TEST(MessageStream, AStopSequenceThatIsASpecialTokenStops) {
  for (const char* token : {"<|assistant|>", "<|user|>"}) {
    const Json answer = answer_of("\"stop_sequences\": [\"" + std::string(token) + "\"]",
                                  {"a" + std::string(token) + "b"});
    EXPECT_EQ(answer["stop_reason"], "stop_sequence");
    EXPECT_EQ(answer["stop_sequence"], token);
    EXPECT_EQ(answer["content"][0]["text"], "a");
  }
}

TEST(MessageStream, TheWholeAnswersForm) {
  const Json answer = answer_of(std::string(kTools) + kThink, {kCalls});
  EXPECT_EQ(answer["type"], "message");
  ASSERT_EQ(answer["content"].size(), 4U);
  EXPECT_EQ(answer["content"][0]["thinking"], "Let me see.");
  EXPECT_NE(answer["content"][0]["signature"], "");
  EXPECT_EQ(answer["content"][1]["text"], "I ask twice.");
  EXPECT_EQ(answer["content"][2]["input"],
            Json::parse("{\"text\": \"a \\\"b\\\" \xC3\xBC 12\", \"count\": 3}"));
  EXPECT_EQ(answer["content"][3]["input"], Json::object());
}

TEST(MessageStream, TextAfterACallIsABlockOfItsOwn) {
  const Json answer = answer_of(kTools, {"one<tool_call>now</tool_call>two"});
  ASSERT_EQ(answer["content"].size(), 3U);
  EXPECT_EQ(answer["content"][0]["text"], "one");
  EXPECT_EQ(answer["content"][1]["type"], "tool_use");
  EXPECT_EQ(answer["content"][2]["text"], "two");
}

TEST(MessageStream, WithoutThinkingThereIsNoThinkingBlock) {
  const Json answer = answer_of("", {"<think>well</think>yes"});
  ASSERT_EQ(answer["content"].size(), 1U);
  EXPECT_EQ(answer["content"][0]["text"], "yes");
}

TEST(MessageStream, PingsOnlyAfterTheStart) {
  const auto exchange = message(R"("stream": true)");
  EXPECT_TRUE(exchange->keep_alive(false).starts_with(":"));
  EXPECT_EQ(exchange->keep_alive(true), "event: ping\ndata: {\"type\":\"ping\"}\n\n");
}

TEST(MessageStream, AFailureIsAnErrorEventAndTheEnd) {
  const auto exchange = message(R"("stream": true)");
  const std::vector<Event> events =
      events_of(exchange->begin({}) +
                exchange->failed({.status = 503, .message = "full", .param = {}, .code = {}}));
  EXPECT_EQ(events.back().name, "error");
  EXPECT_EQ(Json::parse(events.back().data),
            Json::parse(
                R"({"type": "error", "error": {"type": "overloaded_error", "message": "full"}})"));
  EXPECT_EQ(exchange->failed({}), "");
  EXPECT_EQ(exchange->finished(0, {}), "");
  for (const auto& [reason, type] :
       std::map<FinishReason, const char*>{{FinishReason::kFault, "api_error"},
                                           {FinishReason::kDeadline, "timeout_error"},
                                           {FinishReason::kCancelled, "overloaded_error"}}) {
    const auto other = message(R"("stream": true)");
    const std::vector<Event> all = events_of(drive(*other, {{"x", reason}}).events);
    EXPECT_EQ(all.back().name, "error");
    EXPECT_EQ(Json::parse(all.back().data)["error"]["type"], type);
  }
}

}  // namespace
}  // namespace longshore::server
