// /v1/completions: prompts of four kinds, its own fields, chunks and answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/openai/completions.h"
#include "tests/api/support.h"

namespace longshore::server {
namespace {

using engine::FinishReason;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

ApiResult<std::unique_ptr<Exchange>> make(const std::string& fields) {
  Json body = {{"model", "glm"}, {"prompt", "Once upon a time"}};
  const Json more = Json::parse("{" + fields + "}");
  for (const auto& [name, value] : more.items()) body[name] = value;
  return openai_completions(nano(), body, {.served_model = "glm-nano"});
}

std::unique_ptr<Exchange> completions(const std::string& fields) {
  auto made = make(fields);
  EXPECT_TRUE(made) << fields << ": " << (made ? "" : made.error().message);
  return made ? std::move(*made) : nullptr;
}

struct Refusal {
  const char* fields;
  const char* param;
  const char* words;
};

class CompletionsRefuse : public testing::TestWithParam<Refusal> {};

TEST_P(CompletionsRefuse, ByName) {
  const auto made = make(GetParam().fields);
  ASSERT_FALSE(made) << GetParam().fields;
  EXPECT_EQ(made.error().status, 400);
  EXPECT_EQ(made.error().param, GetParam().param) << made.error().message;
  EXPECT_THAT(made.error().message, HasSubstr(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, CompletionsRefuse,
    testing::Values(
        Refusal{R"("prompt": null)", "prompt", "required"},
        Refusal{R"("prompt": "")", "prompt", "empty prompt"},
        Refusal{R"("prompt": [])", "prompt", "not empty"},
        Refusal{R"("prompt": 5)", "prompt", "expected"},
        Refusal{R"("prompt": {"a": 1})", "prompt", "expected"},
        Refusal{R"("prompt": ["a", 5])", "prompt[1]", "expected a string"},
        Refusal{R"("prompt": [5, "a"])", "prompt[1]", "token id"},
        Refusal{R"("prompt": [5, 4096])", "prompt[1]", "[0, 4096)"},
        Refusal{R"("prompt": [-1])", "prompt[0]", "token id"},
        Refusal{R"("prompt": [1.5])", "prompt[0]", "token id"},
        Refusal{R"("prompt": [[5], []])", "prompt[1]", "empty prompt"},
        Refusal{R"("prompt": [[5], [true]])", "prompt[1][0]", "token id"},
        Refusal{R"("prompt": ["a", ""])", "prompt[1]", "empty prompt"},
        Refusal{R"("suffix": "the end")", "suffix", "not supported"},
        Refusal{R"("best_of": 2)", "best_of", "not supported"},
        Refusal{R"("best_of": 2, "n": 3)", "best_of", "not supported"},
        Refusal{R"("best_of": "2")", "best_of", "expected an integer"},
        Refusal{R"("echo": 1)", "echo", "expected a boolean"},
        Refusal{R"("echo": true, "logprobs": 1)", "echo", "logprobs"},
        Refusal{R"("logprobs": true)", "logprobs", "expected an integer"},
        Refusal{R"("logprobs": 21)", "logprobs", "[0, 20]"}, Refusal{R"("n": 0)", "n", "[1, 128]"},
        Refusal{R"("n": 65, "prompt": ["a", "b"])", "prompt", "130 choices"},
        Refusal{R"("max_tokens": 0)", "max_tokens", "out of range"},
        Refusal{R"("max_tokens": 5000)", "prompt", "5000"},
        Refusal{R"("messages": [])", "messages", "unknown field"},
        Refusal{R"("max_completion_tokens": 5)", "max_completion_tokens", "unknown field"},
        Refusal{R"("tools": [])", "tools", "unknown field"},
        Refusal{R"("regex": "a")", "regex", "not supported"},
        Refusal{R"("ebnf": "a")", "ebnf", "not supported"},
        Refusal{R"("guided_json": {"a": 1})", "guided_json", "not supported"},
        Refusal{R"("response_format": {"type": "xml"})", "response_format.type", "expected"},
        Refusal{R"("temperature": "x")", "temperature", "expected a number"},
        Refusal{R"("top_p": 2)", "top_p", "must lie in"},
        Refusal{R"("stop": [1])", "stop[0]", "expected a string"},
        Refusal{R"("logit_bias": {"x": 1})", "logit_bias.x", "token id"},
        Refusal{R"("stream_options": {})", "stream_options", "stream is true"},
        Refusal{R"("priority": 2)", "priority", "order of arrival"},
        Refusal{R"("typo": 2)", "typo", "unknown field"}));

std::vector<std::vector<int32_t>> prompts(const std::string& fields) {
  std::vector<std::vector<int32_t>> all;
  for (const auto& request : completions(fields)->take_requests())
    all.push_back(request.generation.prompt);
  return all;
}

TEST(Completions, PromptsComeInFourKinds) {
  const auto a = *nano().tokenizer->encode("Once upon");
  const auto b = *nano().tokenizer->encode(" a time");
  EXPECT_THAT(prompts(R"("prompt": "Once upon")"), ElementsAre(a));
  EXPECT_THAT(prompts(R"("prompt": ["Once upon", " a time"])"), ElementsAre(a, b));
  EXPECT_THAT(prompts("\"prompt\": " + Json(a).dump()), ElementsAre(a));
  EXPECT_THAT(prompts("\"prompt\": " + Json({a, b}).dump()), ElementsAre(a, b));
  EXPECT_THAT(prompts(R"("n": 2, "prompt": ["Once upon", " a time"])"), ElementsAre(a, a, b, b));
  EXPECT_THAT(prompts(R"("n": 2, "best_of": 2)").size(), 2U);
}

TEST(Completions, DefaultsAreOpenAisAndTheModels) {
  const auto request = completions("")->take_requests().front();
  EXPECT_EQ(request.generation.max_tokens, 16);
  EXPECT_EQ(request.generation.sampling.top_p, 0.95F);
  EXPECT_FALSE(request.parse);
  EXPECT_EQ(completions(R"("max_tokens": 77, "logprobs": 3, "temperature": 0)")
                ->take_requests()[0]
                .generation.max_tokens,
            77);
  EXPECT_EQ(completions(R"("logprobs": 3)")->take_requests()[0].generation.sampling.top_logprobs,
            3);
}

TEST(Completions, ADefaultLengthNeverMakesAPromptTooLong) {
  std::string ids = "[5";
  for (int i = 1; i < 1020; ++i) ids += ",5";
  EXPECT_EQ(completions("\"prompt\": " + ids + "]")->take_requests()[0].generation.max_tokens, 4);
  const auto full = make("\"prompt\": " + ids + ",5,5,5,5]");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, "context_length_exceeded");
}

std::vector<Json> chunks_of(const std::string& stream) {
  std::vector<Event> events = events_of(stream);
  std::vector<Json> chunks;
  EXPECT_EQ(events.back().data, "[DONE]");
  events.pop_back();
  for (const Event& event : events) chunks.push_back(Json::parse(event.data));
  return chunks;
}

Json gathered(const std::vector<Json>& chunks, size_t index, bool logprobs) {
  Json choice = {{"index", index}, {"text", ""}, {"logprobs", nullptr}};
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    if (logprobs) choice["logprobs"][name] = Json::array();
  }
  for (const Json& chunk : chunks) {
    EXPECT_EQ(chunk["object"], "text_completion");
    EXPECT_THAT(chunk["id"].get<std::string>(), StartsWith("cmpl-"));
    if (chunk["choices"].empty() || chunk["choices"][0]["index"] != index) continue;
    const Json& one = chunk["choices"][0];
    choice["text"] = choice["text"].get<std::string>() + one["text"].get<std::string>();
    if (!one["logprobs"].is_null()) {
      for (const auto& [name, list] : one["logprobs"].items()) {
        for (const Json& item : list) choice["logprobs"][name].push_back(item);
      }
    }
    if (one["finish_reason"].is_null()) continue;
    choice["finish_reason"] = one["finish_reason"];
    choice["matched_stop"] = one["matched_stop"];
  }
  return choice;
}

TEST(Completions, TheStreamEqualsTheWholeAnswerAtAnySplit) {
  const std::vector<Output> two = {
      {"there was <think>a</think> \xC3\xA4 man", FinishReason::kLength}, {"b END c"}};
  for (
      const char* fields :
      {R"("stream": true, "n": 2)", R"("stream": true, "n": 2, "echo": true)",
       R"("stream": true, "n": 2, "logprobs": 2)",
       R"("stream": true, "n": 2, "logprobs": 2, "stop": ["a man", "END"])",
       R"("stream": true, "n": 2, "logprobs": 2, "stop": "ss", "skip_special_tokens": false)",
       R"("stream": true, "prompt": ["a", "b"], "stop": "END", "echo": true)",
       R"("stream": true, "prompt": [[5, 6], [7]], "no_stop_trim": true, "skip_special_tokens": false)"}) {
    for (uint32_t seed = 0; seed < 25; ++seed) {
      const auto exchange = completions(fields);
      const Outcome run = drive(*exchange, two, seed);
      const Json answer = Json::parse(exchange->response(run.completions));
      const bool logprobs = std::string(fields).find("logprobs") != std::string::npos;
      for (size_t i = 0; i < 2; ++i) {
        const Json choice = gathered(chunks_of(run.events), i, logprobs);
        for (const auto& [name, value] : answer["choices"][i].items()) {
          ASSERT_EQ(choice.at(name), value) << fields << " seed " << seed << " choice " << i;
        }
      }
    }
  }
}

TEST(Completions, TheAnswersForm) {
  const auto exchange =
      completions(R"("prompt": ["Once", "Twice"], "n": 2, "echo": true, "stop": ["END"])");
  const Outcome run = drive(*exchange, {{" a"}, {" b END"}, {" c", FinishReason::kLength}, {" d"}});
  const Json answer = Json::parse(exchange->response(run.completions));
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "glm-nano");
  EXPECT_THAT(answer["id"].get<std::string>(), StartsWith("cmpl-"));
  ASSERT_EQ(answer["choices"].size(), 4U);
  EXPECT_EQ(answer["choices"][0]["text"], "Once a");
  EXPECT_EQ(answer["choices"][1]["text"], "Once b ");
  EXPECT_EQ(answer["choices"][1]["matched_stop"], "END");
  EXPECT_EQ(answer["choices"][2]["text"], "Twice c");
  EXPECT_EQ(answer["choices"][2]["finish_reason"], "length");
  EXPECT_EQ(answer["choices"][3]["index"], 3);
  EXPECT_EQ(answer["choices"][3]["finish_reason"], "stop");
  EXPECT_TRUE(answer["choices"][3].at("logprobs").is_null());
  const int64_t prompt =
      run.completions[0].stats.prompt_tokens + run.completions[2].stats.prompt_tokens;
  EXPECT_EQ(answer["usage"]["prompt_tokens"], prompt) << "each prompt once";
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 6);
}

TEST(Completions, EchoOfIdsIsTheirText) {
  const auto ids = *nano().tokenizer->encode("Once upon");
  const auto exchange = completions("\"echo\": true, \"prompt\": " + Json(ids).dump());
  EXPECT_EQ(
      Json::parse(exchange->response(drive(*exchange, {{" a"}}).completions))["choices"][0]["text"],
      "Once upon a");
}

TEST(Completions, LogprobsEndWhereAStopStringCutsTheText) {
  for (uint32_t seed = 0; seed < 25; ++seed) {
    const auto exchange = completions(R"("logprobs": 2, "stop": ["END"])");
    const Outcome run = drive(*exchange, {{"one two END three"}}, seed);
    const Json choice = Json::parse(exchange->response(run.completions))["choices"][0];
    ASSERT_EQ(choice["text"], "one two ");
    ASSERT_FALSE(choice["logprobs"]["tokens"].empty());
    for (const Json& offset : choice["logprobs"]["text_offset"]) EXPECT_LT(offset, 8);
  }
}

TEST(Completions, LogprobsHaveTheLegacyForm) {
  const auto exchange = completions(R"("logprobs": 2)");
  const Outcome run = drive(*exchange, {{"\xC3\xA4 man"}});
  const Json logprobs = Json::parse(exchange->response(run.completions))["choices"][0]["logprobs"];
  const size_t n = run.completions[0].ids.size() - 1;
  ASSERT_EQ(logprobs["tokens"].size(), n);
  ASSERT_EQ(logprobs["token_logprobs"].size(), n);
  ASSERT_EQ(logprobs["top_logprobs"].size(), n);
  ASSERT_EQ(logprobs["text_offset"].size(), n);
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  for (size_t i = 0; i < n; ++i)
    EXPECT_TRUE(logprobs["top_logprobs"][i].contains(logprobs["tokens"][i].get<std::string>()));
  int64_t characters = 0;
  for (size_t i = 0; i < n; ++i) {
    EXPECT_EQ(logprobs["text_offset"][i], characters);
    for (const char c : nano().tokenizer->bytes(run.completions[0].ids[i]))
      characters += (static_cast<uint8_t>(c) & 0xC0U) != 0x80U;
  }
}

TEST(Completions, UsageOfAStream) {
  const auto exchange =
      completions(R"("stream": true, "n": 2, "stream_options": {"include_usage": true})");
  const Outcome run = drive(*exchange, {{"a b"}, {"c"}}, 2);
  const std::vector<Json> chunks = chunks_of(run.events);
  EXPECT_EQ(chunks.back()["choices"], Json::array());
  EXPECT_EQ(chunks.back()["usage"], Json::parse(exchange->response(run.completions))["usage"]);
  EXPECT_TRUE(chunks.front().at("usage").is_null());
}

TEST(Completions, AFailureEndsTheStream) {
  const auto exchange = completions(R"("stream": true)");
  const Outcome run = drive(*exchange, {{"a b", FinishReason::kFault}});
  EXPECT_THAT(chunks_of(run.events).back()["error"]["message"].get<std::string>(),
              HasSubstr("logits"));
  EXPECT_EQ(exchange->failed({}), "");
}

}  // namespace
}  // namespace longshore::server
