// The fields of /v1/chat/completions: read, without effect by nature, or refused by name.
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/openai/chat.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::unique_ptr<Exchange> chat(const char* more, const ApiOptions& options = {}) {
  auto made = openai_chat(nano(), chat_body(more), options);
  EXPECT_TRUE(made) << more << ": " << (made ? "" : made.error().message);
  return made ? std::move(*made) : nullptr;
}

session::CompletionRequest request(const char* more) {
  return chat(more)->take_requests().front();
}
engine::SamplingParams sampling(const char* more) {
  return request(more).generation.sampling;
}

struct Refusal {
  const char* more;
  const char* param;
  const char* words;
};

class ChatRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(ChatRefuses, WithStatus400AndTheFieldsName) {
  const Refusal& refusal = GetParam();
  const auto made = openai_chat(nano(), chat_body(refusal.more), {});
  ASSERT_FALSE(made) << refusal.more;
  EXPECT_EQ(made.error().status, 400);
  EXPECT_EQ(made.error().param, refusal.param) << refusal.more;
  EXPECT_THAT(made.error().message, HasSubstr(refusal.words)) << refusal.more;
  EXPECT_EQ(made.error().message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    WrongTypes, ChatRefuses,
    testing::Values(
        Refusal{R"({"model": 1})", "model", "expected a string, got an integer"},
        Refusal{R"({"messages": "hi"})", "messages", "expected a list, got a string"},
        Refusal{R"({"messages": null})", "messages", "required"},
        Refusal{R"({"messages": []})", "messages", "empty"},
        Refusal{R"({"temperature": "hot"})", "temperature", "expected a number, got a string"},
        Refusal{R"({"top_p": [1]})", "top_p", "expected a number, got a list"},
        Refusal{R"({"top_k": 1.5})", "top_k", "expected an integer, got a number with a fraction"},
        Refusal{R"({"top_k": true})", "top_k", "expected an integer, got a boolean"},
        Refusal{R"({"min_p": {}})", "min_p", "expected a number, got an object"},
        Refusal{R"({"repetition_penalty": "1"})", "repetition_penalty", "expected a number"},
        Refusal{R"({"presence_penalty": "1"})", "presence_penalty", "expected a number"},
        Refusal{R"({"frequency_penalty": false})", "frequency_penalty", "expected a number"},
        Refusal{R"({"seed": "7"})", "seed", "expected an integer"},
        Refusal{R"({"seed": 1.25})", "seed", "expected an integer"},
        Refusal{R"({"seed": 18446744073709551615})", "seed", "out of range"},
        Refusal{R"({"n": "2"})", "n", "expected an integer"},
        Refusal{R"({"max_tokens": "5"})", "max_tokens", "expected an integer"},
        Refusal{R"({"max_completion_tokens": []})", "max_completion_tokens", "expected an integer"},
        Refusal{R"({"min_tokens": -1})", "min_tokens", "out of range"},
        Refusal{R"({"stream": 1})", "stream", "expected a boolean, got an integer"},
        Refusal{R"({"stream": true, "stream_options": []})", "stream_options",
                "expected an object"},
        Refusal{R"({"stream": true, "stream_options": {"include_usage": 1}})",
                "stream_options.include_usage", "expected a boolean"},
        Refusal{R"({"stream": true, "stream_options": {"continuous_usage_stats": "x"}})",
                "stream_options.continuous_usage_stats", "expected a boolean"},
        Refusal{R"({"stream": true, "stream_options": {"usage": true}})", "stream_options.usage",
                "unknown field"},
        Refusal{R"({"stream_options": {"include_usage": true}})", "stream_options",
                "stream is true"},
        Refusal{R"({"logprobs": 3})", "logprobs", "expected a boolean"},
        Refusal{R"({"top_logprobs": "3"})", "top_logprobs", "expected an integer"},
        Refusal{R"({"logit_bias": [1]})", "logit_bias", "expected an object"},
        Refusal{R"({"logit_bias": {"a": 1}})", "logit_bias.a", "token id"},
        Refusal{R"({"logit_bias": {"5000": 1}})", "logit_bias.5000", "token id in [0, 4096)"},
        Refusal{R"({"logit_bias": {"-1": 1}})", "logit_bias.-1", "token id"},
        Refusal{R"({"logit_bias": {"5x": 1}})", "logit_bias.5x", "token id"},
        Refusal{R"({"logit_bias": {"5": "1"}})", "logit_bias.5", "expected a number"},
        Refusal{R"({"stop": 5})", "stop", "expected a string or a list of strings, got an integer"},
        Refusal{R"({"stop": {}})", "stop", "got an object"},
        Refusal{R"({"stop": ""})", "stop", "empty"},
        Refusal{R"({"stop": ["a", 1]})", "stop[1]", "expected a string"},
        Refusal{R"({"stop": ["a", ""]})", "stop[1]", "empty"},
        Refusal{R"({"stop_token_ids": 4})", "stop_token_ids", "expected a list"},
        Refusal{R"({"stop_token_ids": [1, "4"]})", "stop_token_ids[1]", "expected a token id"},
        Refusal{R"({"stop_token_ids": [4096]})", "stop_token_ids[0]", "[0, 4096)"},
        Refusal{R"({"stop_token_ids": [99999999999999]})", "stop_token_ids[0]", "[0, 4096)"},
        Refusal{R"({"ignore_eos": "no"})", "ignore_eos", "expected a boolean"},
        Refusal{R"({"no_stop_trim": 0})", "no_stop_trim", "expected a boolean"},
        Refusal{R"({"include_stop_str_in_output": 0})", "include_stop_str_in_output",
                "expected a boolean"},
        Refusal{R"({"skip_special_tokens": 0})", "skip_special_tokens", "expected a boolean"},
        Refusal{R"({"continue_final_message": 0})", "continue_final_message", "expected a boolean"},
        Refusal{R"({"separate_reasoning": 0})", "separate_reasoning", "expected a boolean"},
        Refusal{R"({"stream_reasoning": 0})", "stream_reasoning", "expected a boolean"},
        Refusal{R"({"include_reasoning": 0})", "include_reasoning", "expected a boolean"},
        Refusal{R"({"parallel_tool_calls": 0})", "parallel_tool_calls", "expected a boolean"},
        Refusal{R"({"reasoning_effort": 3})", "reasoning_effort", "expected a string"},
        Refusal{R"({"reasoning": true})", "reasoning", "expected an object"},
        Refusal{R"({"reasoning": {"enabled": 1}})", "reasoning.enabled", "expected a boolean"},
        Refusal{R"({"reasoning": {"effort": 1}})", "reasoning.effort", "expected a string"},
        Refusal{R"({"thinking": "off"})", "thinking", "expected an object"},
        Refusal{R"({"thinking": {"type": 1}})", "thinking.type", "expected a string"},
        Refusal{R"({"chat_template_kwargs": 1})", "chat_template_kwargs", "expected an object"},
        Refusal{R"({"chat_template_kwargs": {"enable_thinking": "no"}})",
                "chat_template_kwargs.enable_thinking", "expected a boolean"},
        Refusal{R"({"chat_template_kwargs": {"clear_thinking": 1}})",
                "chat_template_kwargs.clear_thinking", "expected a boolean"},
        Refusal{R"({"tools": {}})", "tools", "expected a list"},
        Refusal{R"({"rid": 4})", "rid", "expected a string"},
        Refusal{R"({"request_id": 4})", "request_id", "expected a string"},
        Refusal{R"({"cache_salt": 4})", "cache_salt", "expected a string"},
        Refusal{R"({"priority": "high"})", "priority", "expected an integer"},
        Refusal{R"({"response_format": "json"})", "response_format", "expected an object"},
        Refusal{R"({"modalities": "text"})", "modalities", "expected a list"}));

INSTANTIATE_TEST_SUITE_P(
    OutOfRange, ChatRefuses,
    testing::Values(
        Refusal{R"({"temperature": -0.1})", "temperature", "it must lie in"},
        Refusal{R"({"temperature": 1e39})", "temperature", "it must lie in"},
        Refusal{R"({"top_p": 0})", "top_p", "it must lie in"},
        Refusal{R"({"top_p": 1.1})", "top_p", "it must lie in"},
        Refusal{R"({"top_k": -2})", "top_k", "out of range"},
        Refusal{R"({"min_p": 1})", "min_p", "it must lie in"},
        Refusal{R"({"repetition_penalty": 0})", "repetition_penalty", "it must lie in"},
        Refusal{R"({"presence_penalty": 2.5})", "presence_penalty", "it must lie in"},
        Refusal{R"({"frequency_penalty": -2.5})", "frequency_penalty", "it must lie in"},
        Refusal{R"({"logit_bias": {"5": 101}})", "logit_bias.5", "[-100, 100]"},
        Refusal{R"({"logprobs": true, "top_logprobs": 21})", "top_logprobs", "[0, 20]"},
        Refusal{R"({"top_logprobs": 2})", "top_logprobs", "logprobs is true"},
        Refusal{R"({"n": 0})", "n", "[1, 128]"}, Refusal{R"({"n": 129})", "n", "[1, 128]"},
        Refusal{R"({"max_tokens": 0})", "max_tokens", "out of range"},
        Refusal{R"({"max_tokens": 5, "max_completion_tokens": 6})", "max_tokens", "differ"},
        Refusal{R"({"max_tokens": 5, "min_tokens": 6})", "min_tokens", "more than max_tokens"},
        Refusal{R"({"rid": "a", "request_id": "b"})", "request_id", "differ"}));

INSTANTIATE_TEST_SUITE_P(
    NotSupported, ChatRefuses,
    testing::Values(
        Refusal{R"({"response_format": {"type": "yaml"}})", "response_format.type", "expected"},
        Refusal{R"({"response_format": {"type": "json_schema"}})", "response_format.json_schema",
                "required"},
        Refusal{R"({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}})",
                "response_format.json_schema.schema", "required"},
        Refusal{
            R"({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
            {"properties": {"a": {"items": {"multipleOf": 2}}}}}}})",
            "response_format.json_schema.schema",
            "#/properties/a/items: multipleOf is not supported"},
        Refusal{R"({"grammar": "root ::= x"})", "grammar", "the rule x is not defined, line 1"},
        Refusal{R"({"grammar": "root ::= \"x\"", "response_format": {"type": "json_object"}})",
                "grammar", "give one"},
        Refusal{R"({"regex": "a+"})", "regex", "not supported"},
        Refusal{R"({"ebnf": "root ::= x"})", "ebnf", "not supported"},
        Refusal{R"({"stop_regex": "a+"})", "stop_regex", "not supported"},
        Refusal{R"({"structured_outputs": {"json": {}}})", "structured_outputs", "not supported"},
        Refusal{R"({"thinking_token_budget": 5})", "thinking_token_budget", "not supported"},
        Refusal{R"({"thinking": {"type": "enabled", "budget_tokens": 5}})",
                "thinking.budget_tokens", "not supported"},
        Refusal{R"({"functions": [{"name": "f"}]})", "functions", "tools"},
        Refusal{R"({"function_call": "auto"})", "function_call", "tools"},
        Refusal{R"({"audio": {"voice": "x"}})", "audio", "not supported"},
        Refusal{R"({"modalities": ["text", "audio"]})", "modalities", "only"},
        Refusal{R"({"web_search_options": {}})", "web_search_options", "not supported"},
        Refusal{R"({"moderation": {}})", "moderation", "not supported"},
        Refusal{R"({"verbosity": "low"})", "verbosity", "not supported"},
        Refusal{R"({"priority": 1})", "priority", "order of arrival"},
        Refusal{R"({"tool_choice": "required"})", "tool_choice", "no tools"},
        Refusal{R"({"tool_choice": {"type": "function", "function": {"name": "f"}}})",
                "tool_choice.function.name", "none of the tools"},
        Refusal{R"({"tool_choice": {"type": "allowed_tools"}})", "tool_choice.type", "function"},
        Refusal{R"({"tool_choice": "maybe"})", "tool_choice", "expected"},
        Refusal{R"({"tool_choice": 4})", "tool_choice", "expected"},
        Refusal{R"({"tempurature": 1})", "tempurature", "unknown field"},
        Refusal{R"({"use_beam_search": true})", "use_beam_search", "unknown"},
        Refusal{R"({"reasoning_effort": "extreme"})", "reasoning_effort", "none of"},
        Refusal{R"({"thinking": {"type": "sometimes"}})", "thinking.type", "expected"},
        Refusal{R"({"thinking": {"kind": "enabled"}})", "thinking.kind", "unknown"},
        Refusal{R"({"reasoning": {"max_tokens": 5}})", "reasoning.max_tokens", "unknown"},
        Refusal{
            R"({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true}})",
            "reasoning_effort", "contradicts"},
        Refusal{R"({"thinking": {"type": "disabled"}, "reasoning": {"enabled": true}})",
                "reasoning.enabled", "contradicts"},
        Refusal{R"({"chat_template_kwargs": {"messages": []}})", "chat_template_kwargs.messages",
                "remove it"},
        Refusal{R"({"chat_template_kwargs": {"tools": []}})", "chat_template_kwargs.tools",
                "remove it"}));

TEST(ChatFields, BodyThatIsNoObjectIsRefused) {
  for (const char* body : {"[]", "1", "\"x\"", "null"}) {
    const auto made = openai_chat(nano(), Json::parse(body), {});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().status, 400);
    EXPECT_THAT(made.error().message, HasSubstr("expected an object"));
  }
}

TEST(ChatFields, WhatChangesNothingByNatureIsTaken) {
  for (const char* more :
       {R"({"user": "me"})", R"({"metadata": {"a": "b"}})", R"({"store": true})",
        R"({"service_tier": "auto"})", R"({"safety_identifier": "x"})",
        R"({"prompt_cache_key": "x"})", R"({"prompt_cache_retention": "24h"})",
        R"({"prompt_cache_options": {"ttl": "30m"}})",
        R"({"prediction": {"type": "content", "content": "x"}})",
        R"({"cache_control": {"type": "ephemeral"}})", R"({"response_format": {"type": "text"}})",
        R"({"modalities": ["text"]})", R"({"priority": 0})", R"({"tool_choice": "auto"})",
        R"({"tool_choice": "none"})", R"({"tools": []})", R"({"stop": []})",
        R"({"stream": true, "stream_options": {"include_obfuscation": false}})"}) {
    EXPECT_EQ(prompt_of(*chat(more)), prompt_of(*chat("{}"))) << more;
  }
}

TEST(ChatFields, NullMeansAbsent) {
  const char* all =
      R"({"temperature": null, "top_p": null, "top_k": null, "min_p": null, "repetition_penalty": null, "n": null,
    "seed": null, "max_tokens": null, "max_completion_tokens": null, "stop": null, "stop_token_ids": null, "logprobs": null,
    "top_logprobs": null, "logit_bias": null, "stream": null, "stream_options": null, "tools": null, "tool_choice": null,
    "response_format": null, "regex": null, "ebnf": null, "stop_regex": null, "structured_outputs": null,
    "thinking_token_budget": null, "reasoning_effort": null, "reasoning": null, "thinking": null, "chat_template_kwargs": null,
    "rid": null, "request_id": null, "cache_salt": null, "priority": null, "parallel_tool_calls": null, "functions": null,
    "function_call": null, "presence_penalty": null, "frequency_penalty": null, "min_tokens": null, "ignore_eos": null,
    "continue_final_message": null, "no_stop_trim": null, "skip_special_tokens": null, "separate_reasoning": null})";
  EXPECT_EQ(prompt_of(*chat(all)), prompt_of(*chat("{}")));
  EXPECT_EQ(request(all).generation.max_tokens, -1);
}

TEST(ChatFields, SamplingDefaultsComeFromTheModelThenFromTheRequest) {
  const engine::SamplingParams plain = sampling("{}");
  EXPECT_EQ(plain.temperature, 1.0F);
  EXPECT_EQ(plain.top_p, 0.95F) << "generation_config.json";
  EXPECT_EQ(plain.top_k, -1);
  EXPECT_EQ(plain.min_p, 0.0F);
  EXPECT_EQ(plain.top_logprobs, -1);
  const engine::SamplingParams told = sampling(
      R"({"temperature": 0.5, "top_p": 1, "top_k": 7.0, "min_p": 0.25, "repetition_penalty": 1.5, "presence_penalty": -1,
          "frequency_penalty": 2, "logit_bias": {"17": -100, "5": 2.5}, "seed": 42})");
  EXPECT_EQ(told.temperature, 0.5F);
  EXPECT_EQ(told.top_p, 1.0F);
  EXPECT_EQ(told.top_k, 7);
  EXPECT_EQ(told.min_p, 0.25F);
  EXPECT_EQ(told.repetition_penalty, 1.5F);
  EXPECT_EQ(told.presence_penalty, -1.0F);
  EXPECT_EQ(told.frequency_penalty, 2.0F);
  EXPECT_THAT(told.logit_bias, ElementsAre(std::pair(17, -100.0F), std::pair(5, 2.5F)));
  EXPECT_EQ(told.seed, 42U);
}

TEST(ChatFields, WithoutASeedEveryRequestHasItsOwn) {
  EXPECT_NE(sampling("{}").seed, sampling("{}").seed);
}

TEST(ChatFields, ChoicesHaveSeedsThatFollowFromTheFirst) {
  const auto first = chat(R"({"n": 3, "seed": -5})")->take_requests();
  const auto again = chat(R"({"n": 3, "seed": -5})")->take_requests();
  ASSERT_EQ(first.size(), 3U);
  EXPECT_EQ(first[0].generation.sampling.seed, static_cast<uint64_t>(-5));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(first[i].generation.sampling.seed, again[i].generation.sampling.seed);
    for (size_t j = 0; j < i; ++j)
      EXPECT_NE(first[i].generation.sampling.seed, first[j].generation.sampling.seed);
    EXPECT_EQ(first[i].generation.prompt, first[0].generation.prompt);
  }
}

TEST(ChatFields, LogprobsAskTheSampler) {
  EXPECT_EQ(sampling(R"({"logprobs": false})").top_logprobs, -1);
  EXPECT_EQ(sampling(R"({"logprobs": true})").top_logprobs, 0);
  EXPECT_EQ(sampling(R"({"logprobs": true, "top_logprobs": 20})").top_logprobs, 20);
  EXPECT_EQ(sampling(R"({"logprobs": false, "top_logprobs": 0})").top_logprobs, -1);
}

TEST(ChatFields, LengthsHaveTwoNames) {
  EXPECT_EQ(request("{}").generation.max_tokens, -1);
  EXPECT_EQ(request(R"({"max_tokens": 9})").generation.max_tokens, 9);
  EXPECT_EQ(request(R"({"max_completion_tokens": 8})").generation.max_tokens, 8);
  EXPECT_EQ(request(R"({"max_completion_tokens": 8, "max_tokens": 8, "min_tokens": 3})")
                .generation.min_tokens,
            3);
}

TEST(ChatFields, Stopping) {
  EXPECT_THAT(request("{}").stop, IsEmpty());
  EXPECT_THAT(request(R"({"stop": "a"})").stop, ElementsAre("a"));
  EXPECT_THAT(request(R"({"stop": ["a", "bc"]})").stop, ElementsAre("a", "bc"));
  EXPECT_THAT(request("{}").generation.stop_ids, ElementsAre(4073, 4080, 4082));
  EXPECT_THAT(request(R"({"stop_token_ids": [5]})").generation.stop_ids,
              ElementsAre(5, 4073, 4080, 4082));
  const auto ignoring = request(R"({"ignore_eos": true})").generation;
  EXPECT_TRUE(ignoring.ignore_stop_ids);
  const auto own = request(R"({"ignore_eos": true, "stop_token_ids": [5]})").generation;
  EXPECT_FALSE(own.ignore_stop_ids) << "the request's own ids still stop";
  EXPECT_THAT(own.stop_ids, ElementsAre(5));
  EXPECT_FALSE(request("{}").keep_stop);
  EXPECT_TRUE(request(R"({"no_stop_trim": true})").keep_stop);
  EXPECT_TRUE(request(R"({"include_stop_str_in_output": true})").keep_stop);
  EXPECT_TRUE(request("{}").skip_special_tokens);
  EXPECT_FALSE(request(R"({"skip_special_tokens": false})").skip_special_tokens);
}

TEST(ChatFields, AStopStringThatIsASpecialTokenStops) {
  EXPECT_THAT(request(R"({"stop": ["x", "<|assistant|>"]})").generation.stop_ids,
              testing::Contains(4081));
  const auto only = request(R"({"stop": "<|assistant|>", "ignore_eos": true})").generation;
  EXPECT_FALSE(only.ignore_stop_ids);
  EXPECT_THAT(only.stop_ids, ElementsAre(4081));
  const auto shown = request(R"({"stop": "<|assistant|>", "skip_special_tokens": false})");
  EXPECT_THAT(shown.generation.stop_ids, ElementsAre(4073, 4080, 4082)) << "its text is found";
  EXPECT_THAT(request(R"({"stop": "</think>"})").generation.stop_ids, ElementsAre(4073, 4080, 4082))
      << "not special: its text is found";
  const auto exchange = chat(R"({"stop": "<|assistant|>"})");
  const Outcome run = drive(*exchange, {{"a</think>b<|assistant|>c"}});
  EXPECT_EQ(run.completions[0].content, "b");
  EXPECT_EQ(run.completions[0].finish_reason, "stop");
}

TEST(ChatFields, CacheSaltsSeparatePrefixes) {
  EXPECT_EQ(request("{}").generation.cache_salt, 0U);
  const uint64_t salt = request(R"({"cache_salt": "tenant a"})").generation.cache_salt;
  EXPECT_NE(salt, 0U);
  EXPECT_EQ(salt, request(R"({"cache_salt": "tenant a"})").generation.cache_salt);
  EXPECT_NE(salt, request(R"({"cache_salt": "tenant b"})").generation.cache_salt);
}

TEST(ChatFields, TheAnswerTakesTheRequestsId) {
  for (const char* more : {R"({"rid": "my id"})", R"({"request_id": "my id"})",
                           R"({"rid": "my id", "request_id": "my id"})"}) {
    const auto exchange = chat(more);
    const Outcome run = drive(*exchange, {{"hello"}});
    EXPECT_EQ(Json::parse(exchange->response(run.completions))["id"], "my id");
  }
}

TEST(ChatFields, OtherModelsAreRefusedWhereTheServerSaysSo) {
  const ApiOptions strict{.served_model = "glm-nano", .refuse_other_models = true};
  const auto made = openai_chat(nano(), chat_body(R"({"model": "gpt-4o"})"), strict);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().status, 404);
  EXPECT_EQ(made.error().code, "model_not_found");
  EXPECT_EQ(made.error().param, "model");
  EXPECT_THAT(made.error().message, HasSubstr("gpt-4o"));
  EXPECT_NE(chat(R"({"model": "glm-nano"})", strict), nullptr);
  EXPECT_NE(chat(R"({"model": null})", strict), nullptr);
  EXPECT_NE(chat(R"({"model": "gpt-4o"})", {.served_model = "glm-nano"}), nullptr);
}

TEST(ChatFields, ThinkingIsOnUnlessAnyOfItsNamesTurnsItOff) {
  for (const char* more : {"{}", R"({"reasoning_effort": "high"})",
                           R"({"reasoning": {"enabled": true, "effort": "max"}})",
                           R"({"thinking": {"type": "enabled"}})",
                           R"({"chat_template_kwargs": {"enable_thinking": true}})"}) {
    EXPECT_TRUE(prompt_of(*chat(more)).ends_with("<|assistant|><think>")) << more;
    EXPECT_TRUE(request(more).parser.starts_in_reasoning) << more;
  }
  for (const char* more :
       {R"({"reasoning_effort": "none"})", R"({"reasoning": {"enabled": false}})",
        R"({"reasoning": {"effort": "none"}})", R"({"thinking": {"type": "disabled"}})",
        R"({"chat_template_kwargs": {"enable_thinking": false}})", R"({"enable_thinking": false})",
        R"({"thinking": {"type": "disabled"}, "reasoning_effort": "none"})"}) {
    EXPECT_TRUE(prompt_of(*chat(more)).ends_with("<|assistant|><think></think>")) << more;
    EXPECT_FALSE(request(more).parser.starts_in_reasoning) << more;
  }
}

TEST(ChatFields, ContextLengthErrorsNameTheNumbers) {
  const auto prompt = static_cast<int64_t>(request("{}").generation.prompt.size());
  EXPECT_EQ(
      request(fmt::format(R"({{"max_tokens": {}}})", 1024 - prompt).c_str()).generation.max_tokens,
      1024 - prompt);
  const auto both = openai_chat(nano(), chat_body(R"({"max_tokens": 1024})"), {});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().status, 400);
  EXPECT_EQ(both.error().code, "context_length_exceeded");
  EXPECT_EQ(both.error().param, "messages");
  for (const int64_t number : {int64_t{1024}, prompt, prompt + 1024}) {
    EXPECT_THAT(both.error().message, HasSubstr(std::to_string(number)));
  }
  Json body = chat_body();
  std::string& text = body["messages"][0]["content"].get_ref<std::string&>();
  for (int i = 0; i < 1100; ++i) text += " word";
  const auto alone = openai_chat(nano(), body, {});
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().code, "context_length_exceeded");
  EXPECT_THAT(alone.error().message, HasSubstr("1024"));
}

}  // namespace
}  // namespace longshore::server
