// Constrained completions of the bundled model: answers that cannot leave their grammar.
#include "session/output_constraints.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "session/chat_request.h"
#include "session/completion.h"
#include "tests/session/nano.h"
#include "text/grammar/gbnf.h"

namespace longshore::session {
namespace {

using text::Json;
using Calls = text::OutputFormat::Calls;

LoadedModel& nano() {
  static const std::unique_ptr<LoadedModel> loaded = [] {
    LoadOptions options;
    options.context_length = 1024;
    return load_nano(std::move(options));
  }();
  return *loaded;
}

const char* kSchema =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},
    "age":{"type":"integer","minimum":18,"maximum":99},"tags":{"type":"array","items":{"enum":["a","b"]},"maxItems":3}},
    "required":["name","age"],"additionalProperties":false})";

text::OutputFormat schema_format(bool reasoning = false) {
  return {.schema = Json::parse(kSchema), .starts_in_reasoning = reasoning};
}
text::OutputFormat gbnf_format(const char* grammar) {
  return {.gbnf = grammar};
}

CompletionRequest request_for(const text::OutputFormat& format, uint64_t seed) {
  // The model thinks about sums.
  const char* text = format.starts_in_reasoning ? "Compute 34 + 6." : "Goodbye!";
  const auto variables =
      template_variables({{"messages", Json::array({{{"role", "user"}, {"content", text}}})},
                          {"enable_thinking", format.starts_in_reasoning}});
  const auto prompt = render_chat(nano(), *variables);
  LS_CHECK(prompt.has_value());
  CompletionRequest request;
  request.generation.prompt = prompt->ids;
  request.generation.sampling.temperature = 1.5;
  request.generation.sampling.seed = seed;
  request.generation.max_tokens = 400;
  request.parse = true;
  request.parser.starts_in_reasoning = prompt->starts_in_reasoning;
  request.parser.verbatim = format.calls == Calls::kNone;
  auto made = nano().constraints->compile(format);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  request.generation.constraint = *made;
  return request;
}

std::vector<Completion> run(std::vector<CompletionRequest> requests) {
  std::vector<Job> jobs;
  for (CompletionRequest& request : requests) jobs.push_back({std::move(request), {}});
  const CancelToken cancel;
  auto made = complete_all(nano(), std::move(jobs), cancel);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return std::move(*made);
}

void expect_person(const Completion& completion) {
  if (completion.finish_reason == "length") return;
  ASSERT_EQ(completion.finish_reason, "stop");
  const Json value = Json::parse(completion.content, nullptr, false);
  ASSERT_TRUE(value.is_object()) << completion.content;
  EXPECT_GE(value["age"], 18);
  EXPECT_LE(value["age"], 99);
  EXPECT_TRUE(value["name"].is_string());
}

TEST(OutputConstraints, EveryRequestOfABatchHasItsOwn) {
  std::vector<CompletionRequest> requests;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    requests.push_back(request_for(schema_format(), seed));
    requests.push_back(request_for(gbnf_format("root ::= (\"yes\" | \"no\") [.!]{2}"), seed));
    requests.push_back(request_for(schema_format(/*reasoning=*/true), seed));
  }
  const std::vector<Completion> made = run(std::move(requests));
  for (size_t i = 0; i < made.size(); i += 3) {
    expect_person(made[i]);
    EXPECT_THAT(made[i + 1].content, testing::MatchesRegex("(yes|no)[.!][.!]"));
    EXPECT_EQ(made[i + 1].finish_reason, "stop");
    expect_person(made[i + 2]);
  }
}

TEST(OutputConstraints, TheMaskBeginsAfterTheReasoning) {
  CompletionRequest request = request_for(schema_format(/*reasoning=*/true), 1);
  request.generation.sampling.temperature = 0;
  const Completion made = run({request}).front();
  EXPECT_FALSE(made.reasoning.empty());
  EXPECT_GT(made.reasoning_tokens, 0);
  expect_person(made);
}

TEST(OutputConstraints, StopStringsAndLengthStillEnd) {
  CompletionRequest stopped = request_for(schema_format(), 2);
  stopped.stop = {"\"age\":"};
  CompletionRequest cut = request_for(schema_format(), 2);
  cut.generation.max_tokens = 3;
  const std::vector<Completion> made = run({stopped, cut});
  EXPECT_EQ(made[0].matched_stop, "\"age\":");
  EXPECT_THAT(made[0].content, testing::StartsWith("{\"name\":\""));
  EXPECT_EQ(made[1].finish_reason, "length");
}

TEST(OutputConstraints, TheGrammarsEndIsTheOutputs) {
  // Neither min_tokens nor ignore_eos can make it longer.
  CompletionRequest request = request_for(gbnf_format("root ::= \"yes\""), 3);
  request.generation.min_tokens = 50;
  request.generation.ignore_stop_ids = true;
  const Completion made = run({request}).front();
  EXPECT_EQ(made.content, "yes");
  EXPECT_EQ(made.finish_reason, "stop");
}

TEST(OutputConstraints, LogprobsAreOfWhatIsAllowed) {
  CompletionRequest request = request_for(gbnf_format("root ::= \"a\" | \"b\""), 4);
  request.generation.sampling.top_logprobs = 5;
  const Completion made = run({request}).front();
  ASSERT_GE(made.tokens.size(), 1U);
  EXPECT_EQ(made.tokens[0].top_logprobs.size(), 2U);
  double sum = 0;
  for (const auto& [id, logprob] : made.tokens[0].top_logprobs) sum += std::exp(logprob);
  EXPECT_NEAR(sum, 1, 1e-4);
}

TEST(OutputConstraints, WhatNoTokenCanSayEndsAsAnError) {
  const auto grammar = text::parse_gbnf("root ::= \"ab\"");
  const auto automaton = text::Automaton::compile(*grammar);
  std::vector<std::string> tokens(4096);
  tokens[70] = "a";  // and no b
  CompletionRequest request = request_for(gbnf_format("root ::= \"a\""), 5);
  request.generation.constraint =
      make_constraint(*automaton, std::make_shared<const text::Vocabulary>(tokens));
  const Completion made = run({request}).front();
  EXPECT_EQ(made.finish_reason, "error");
  ASSERT_TRUE(made.error);
  EXPECT_THAT(made.error->message, testing::HasSubstr("allows no token after 1 tokens"));
}

// One request's grammar with too many readings ends that request and no other of the batch.
TEST(OutputConstraints, TooManyReadingsEndTheirRequestAlone) {
  CompletionRequest ambiguous =
      request_for(gbnf_format("root ::= s\ns ::= p | q | \"\"\np ::= [a-z] s [a-z]\nq ::= s s"), 6);
  ambiguous.generation.min_tokens = 300;  // it might end before it has many readings
  const std::vector<Completion> made =
      run({ambiguous, request_for(schema_format(), 7), request_for(schema_format(), 8)});
  EXPECT_EQ(made[0].finish_reason, "error");
  ASSERT_TRUE(made[0].error);
  EXPECT_THAT(made[0].error->message, testing::HasSubstr("the grammar is too ambiguous"));
  expect_person(made[1]);
  expect_person(made[2]);
  expect_person(run({request_for(schema_format(), 9)}).front());
}

TEST(OutputConstraints, DraftsAreMaskedAndTakenBack) {
  const auto made = nano().constraints->compile(gbnf_format("root ::= \"ab\" [0-9]{2} \"c\"?"));
  ASSERT_TRUE(made);
  const std::vector<int32_t> stops = nano().defaults.eos_ids;
  const auto constraint = (*made)->start(stops, 4096);
  const auto id = [](const char* text) { return *nano().tokenizer->id_of(text); };
  const auto mask = [&] {
    std::vector<uint64_t> words(engine::id_mask_words(4096), ~uint64_t{0});
    constraint->fill(words);
    return words;
  };
  const auto begin = mask();
  EXPECT_FALSE(constraint->draft(id("b")));
  ASSERT_TRUE(constraint->draft(id("a")));
  const auto after_a = mask();
  EXPECT_NE(after_a, begin);
  ASSERT_TRUE(constraint->draft(id("b")));
  ASSERT_TRUE(constraint->draft(id("1")));
  EXPECT_FALSE(constraint->draft(stops.front()));
  ASSERT_TRUE(constraint->draft(id("2")));
  ASSERT_TRUE(constraint->draft(stops.front()));
  EXPECT_FALSE(constraint->draft(id("c"))) << "after the end";
  constraint->drop_drafts();
  EXPECT_EQ(mask(), begin);
  constraint->accept(id("a"));
  EXPECT_EQ(mask(), after_a);
}

TEST(OutputConstraints, AFormatIsCompiledOnce) {
  const auto first = nano().constraints->compile(schema_format());
  EXPECT_EQ(*first, *nano().constraints->compile(schema_format()));
  EXPECT_NE(*first, *nano().constraints->compile(schema_format(true)));
  for (int i = 0; i < 100; ++i) {
    text::OutputFormat other;
    other.schema = Json{{"const", i}};
    ASSERT_TRUE(nano().constraints->compile(other));
  }
  EXPECT_NE(*first, *nano().constraints->compile(schema_format())) << "the cache has no bound";
}

TEST(OutputConstraints, ForcedCallsComeBackAsCalls) {
  text::OutputFormat format{.calls = Calls::kRequired, .one_call = true};
  format.tools = Json::parse(
      R"([{"type":"function","function":{"name":"get_weather","strict":true,"parameters":{"type":"object",
      "properties":{"city":{"type":"string","maxLength":10},"days":{"type":"integer"}},"required":["city","days"]}}}])");
  CompletionRequest request = request_for(format, 6);
  request.parser.tools = format.tools;
  const Completion made = run({request}).front();
  EXPECT_EQ(made.finish_reason, "tool_calls");
  ASSERT_EQ(made.tool_calls.size(), 1U);
  const Json arguments = Json::parse(made.tool_calls[0].arguments);
  EXPECT_TRUE(arguments["city"].is_string());
  EXPECT_TRUE(arguments["days"].is_number_integer());
  EXPECT_EQ(made.content, "");
}

}  // namespace
}  // namespace longshore::session
