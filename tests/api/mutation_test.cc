// Bodies that nobody foresaw: every one is taken or refused by name, none ends the program.
#include <random>

#include <gtest/gtest.h>

#include "server/anthropic/messages.h"
#include "server/openai/chat.h"
#include "server/openai/completions.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using Dialect = ApiResult<std::unique_ptr<Exchange>> (*)(const session::LoadedModel&, const Json&,
                                                         const ApiOptions&);

Json odd_value(std::mt19937& random) {
  static const std::vector<Json> values = {nullptr,
                                           true,
                                           false,
                                           0,
                                           -1,
                                           1,
                                           1.5,
                                           1e300,
                                           -1e300,
                                           18446744073709551615U,
                                           INT64_MIN,
                                           "",
                                           "none",
                                           "text",
                                           "\xC3\xA4",
                                           "a\nb",
                                           Json::array(),
                                           Json::object(),
                                           Json::array({1, "a", nullptr}),
                                           {{"type", "text"}, {"text", "x"}},
                                           {{"type", "tool_use"}},
                                           {{"role", "tool"}, {"content", "x"}},
                                           {{"name", "f"}, {"arguments", "{}"}}};
  return values[random() % values.size()];
}

// Replaces, removes or adds one value somewhere.
void mutate(Json& json, std::mt19937& random) {
  if ((json.is_object() || json.is_array()) && !json.empty() && random() % 5 != 0) {
    auto child = json.begin();
    std::advance(child, static_cast<std::ptrdiff_t>(random() % json.size()));
    if (random() % 8 == 0) {
      json.erase(child);
    } else {
      mutate(*child, random);
    }
  } else if (json.is_object() && random() % 2 == 0) {
    json["odd"] = odd_value(random);
  } else if (json.is_array() && random() % 2 == 0) {
    json.push_back(odd_value(random));
  } else {
    json = odd_value(random);
  }
}

void expect_taken_or_refused_by_name(Dialect dialect, const Json& seed_body, const Output& output) {
  std::mt19937 random(20250101);
  int taken = 0;
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    Json body = seed_body;
    for (uint32_t n = 1 + random() % 3; n > 0; --n) mutate(body, random);
    auto made = dialect(nano(), body, {.served_model = "m", .max_choices = 8});
    if (made) {
      ++taken;
      const size_t choices = (*made)->take_requests().size();
      const Outcome run =
          drive(**made, std::vector<Output>(choices, output), static_cast<uint32_t>(i));
      EXPECT_TRUE(Json::accept((*made)->response(run.completions)));
      for (const session::CompletionRequest& request : (*made)->take_requests()) {
        EXPECT_TRUE(nano().engine->validate(request.generation)) << body;
      }
    } else {
      ++refused;
      EXPECT_EQ(made.error().status, 400) << body;
      EXPECT_FALSE(made.error().param.empty()) << made.error().message;
      EXPECT_EQ(made.error().message.find('\n'), std::string::npos) << made.error().message;
    }
  }
  EXPECT_GT(taken, 100);
  EXPECT_GT(refused, 100);
}

TEST(Mutations, OfAChatBodyAreTakenOrRefusedByName) {
  const Json body = Json::parse(
      R"({"model": "m", "messages": [{"role": "system", "content": [{"type": "text", "text": "s"}]},
    {"role": "user", "content": "u"}, {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": [1]}"}}]},
    {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "t"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object",
    "properties": {"x": {"type": "array"}}}}}], "tool_choice": "auto", "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1,
    "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"5": 1}, "seed": 1, "n": 2,
    "max_tokens": 50, "min_tokens": 2, "stop": ["x", "y"], "stop_token_ids": [7], "stream": true,
    "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2, "chat_template_kwargs": {"clear_thinking": true},
    "reasoning": {"enabled": true, "effort": "low"}, "thinking": {"type": "enabled"}, "rid": "r", "cache_salt": "c"})");
  expect_taken_or_refused_by_name(
      openai_chat, body,
      {"why</think>so <tool_call>f<arg_key>x</arg_key><arg_value>[1]</arg_value></tool_call>"});
}

TEST(Mutations, OfACompletionsBodyAreTakenOrRefusedByName) {
  const Json body = Json::parse(
      R"({"model": "m", "prompt": ["a", [1, 2]], "n": 2, "best_of": 2, "echo": false, "logprobs": 2,
    "max_tokens": 5, "temperature": 0.5, "stop": "x", "stream": true, "stream_options": {"include_usage": true}, "seed": 1})");
  expect_taken_or_refused_by_name(openai_completions, body, {"so it is"});
}

TEST(Mutations, OfAMessagesBodyAreTakenOrRefusedByName) {
  const Json body = Json::parse(
      R"({"model": "m", "max_tokens": 50, "system": [{"type": "text", "text": "s"}], "messages": [
    {"role": "user", "content": [{"type": "text", "text": "u"}]}, {"role": "assistant", "content": [
    {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "b"},
    {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]}, {"role": "user", "content": [
    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "r"}], "is_error": true}]}],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 10}, "stop_sequences": ["x"], "temperature": 0.5, "stream": true,
    "output_config": {"effort": "low"}, "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}})");
  expect_taken_or_refused_by_name(anthropic_messages, body,
                                  {"why</think>so <tool_call>f</tool_call>"});
}

}  // namespace
}  // namespace longshore::server
