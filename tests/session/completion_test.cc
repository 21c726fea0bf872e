// Completions of the bundled model, as the commands run them.
#include "session/completion.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "session/chat_request.h"
#include "tests/paths.h"
#include "tests/session/nano.h"

namespace longshore::session {
namespace {

using testing::HasSubstr;
using text::Json;

LoadedModel& nano() {
  static const std::unique_ptr<LoadedModel> loaded = [] {
    LoadOptions options;
    options.context_length = 1024;
    return load_nano(std::move(options));
  }();
  return *loaded;
}

// The first task of that kind, as a client would send it.
Json task_named(const std::string& name, bool thinking) {
  std::ifstream stream(longshore::source_dir() + "/tests/data/eval/tasks-public.jsonl");
  for (std::string line; std::getline(stream, line);) {
    Json task = Json::parse(line);
    if (task["task"] == name && task["enable_thinking"] == thinking) return task;
  }
  LS_FAIL("no task {}", name);
}

CompletionRequest request_for(const Json& body) {
  const auto variables = template_variables(body);
  LS_CHECK_MSG(variables.has_value(), "{}", variables.error().message);
  const auto prompt = render_chat(nano(), *variables);
  LS_CHECK_MSG(prompt.has_value(), "{}", prompt.error().message);
  CompletionRequest request;
  request.generation.prompt = prompt->ids;
  request.generation.sampling.temperature = 0;
  request.generation.max_tokens = 200;
  request.parse = true;
  request.parser.starts_in_reasoning = prompt->starts_in_reasoning;
  if (body.contains("tools")) request.parser.tools = body["tools"];
  return request;
}

CompletionRequest goodbye() {
  return request_for(Json::parse(
      R"({"messages": [{"role": "user", "content": "Goodbye!"}], "enable_thinking": false})"));
}

Completion run(const CompletionRequest& request, const CompletionSink& sink = {}) {
  const CancelToken cancel;
  auto completion = complete(nano(), request, sink, cancel);
  LS_CHECK_MSG(completion.has_value(), "{}", completion.error().message);
  return std::move(*completion);
}

TEST(Completion, AChatPromptIsAnswered) {
  std::string streamed;
  CompletionSink sink;
  sink.on_progress = [&](const Completion&, const Progress& progress) {
    streamed += progress.text;
    return true;
  };
  const Completion completion = run(goodbye(), sink);
  EXPECT_EQ(completion.content, "Goodbye! Have a nice day.");
  EXPECT_EQ(completion.text, completion.content);
  EXPECT_EQ(streamed, completion.text);
  EXPECT_EQ(completion.reasoning, "");
  EXPECT_EQ(completion.finish_reason, "stop");
  EXPECT_EQ(completion.matched_stop, "<|user|>");
  EXPECT_EQ(completion.stats.output_tokens, static_cast<int64_t>(completion.ids.size()));
}

TEST(Completion, StopStringsCut) {
  CompletionRequest request = goodbye();
  request.stop = {"nothing like it", "e a n"};
  const Completion completion = run(request);
  EXPECT_EQ(completion.text, "Goodbye! Hav");
  EXPECT_EQ(completion.finish_reason, "stop");
  EXPECT_EQ(completion.matched_stop, "e a n");
}

TEST(Completion, StopStringsThatAreEmptyOrNotUtf8AreRefused) {
  const CancelToken cancel;
  for (const char* stop : {"", "\xa9"}) {
    CompletionRequest request = goodbye();
    request.stop = {stop};
    const auto completion = complete(nano(), request, {}, cancel);
    ASSERT_FALSE(completion);
    EXPECT_EQ(completion.error().kind, ErrorKind::kUsage);
    EXPECT_THAT(completion.error().message, HasSubstr("stop: "));
  }
}

TEST(Completion, TheLengthLimitCutsAndShowsWhatWasHeldBack) {
  CompletionRequest request = goodbye();
  request.generation.max_tokens = 2;
  request.stop = {"!!!"};
  const Completion completion = run(request);
  EXPECT_EQ(completion.finish_reason, "length");
  EXPECT_EQ(completion.ids.size(), 2U);
  EXPECT_EQ(completion.text, nano().tokenizer->decode(completion.ids));
}

TEST(Completion, CancellationKeepsWhatWasGenerated) {
  CancelToken cancel;
  CompletionSink sink;
  sink.on_progress = [&](const Completion&, const Progress&) {
    cancel.cancel();
    return true;
  };
  const auto completion = complete(nano(), goodbye(), sink, cancel);
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->finish_reason, "cancelled");
  EXPECT_EQ(completion->ids.size(), 1U);
  sink.on_progress = [](const Completion& so_far, const Progress&) {
    return so_far.text.size() < 10;
  };
  EXPECT_EQ(run(goodbye(), sink).finish_reason, "cancelled");
}

TEST(Completion, ToolCallsAreParsedIntoNameAndJsonArguments) {
  const Json task = task_named("tool_call", false);
  const Json body = {
      {"messages", task["messages"]}, {"tools", task["tools"]}, {"enable_thinking", false}};
  const Completion completion = run(request_for(body));
  const Json& expected = task["expected"]["tool_calls"][0];
  ASSERT_EQ(completion.tool_calls.size(), 1U) << completion.text;
  EXPECT_EQ(completion.tool_calls[0].name, expected["name"].get<std::string>());
  EXPECT_EQ(Json::parse(completion.tool_calls[0].arguments), expected["arguments"]);
  EXPECT_EQ(completion.content, "");
  EXPECT_EQ(completion.finish_reason, "tool_calls");
  EXPECT_EQ(completion.matched_stop, "<|observation|>");
}

TEST(Completion, ReasoningIsSplitFromTheAnswer) {
  const Json task = task_named("add", true);
  const Json body = {{"messages", task["messages"]}, {"enable_thinking", true}};
  CompletionSink sink;
  std::string reasoning;
  sink.on_progress = [&](const Completion&, const Progress& progress) {
    for (const text::OutputDelta& delta : progress.deltas) {
      if (delta.kind == text::OutputDelta::Kind::kReasoning) reasoning += delta.text;
    }
    return true;
  };
  const Completion completion = run(request_for(body), sink);
  EXPECT_EQ(completion.reasoning, task["expected"]["reasoning_content"].get<std::string>());
  EXPECT_EQ(completion.content, task["expected"]["content"].get<std::string>());
  EXPECT_EQ(reasoning, completion.reasoning);
  EXPECT_EQ(completion.text, task["expected_text"].get<std::string>());
  EXPECT_EQ(completion.finish_reason, "stop");
}

TEST(Completion, ReasoningTokensEndWithTheThinking) {
  const Json task = task_named("add", true);
  const Completion whole =
      run(request_for({{"messages", task["messages"]}, {"enable_thinking", true}}));
  const int32_t end = *nano().tokenizer->id_of("</think>");
  const auto at = std::find(whole.ids.begin(), whole.ids.end(), end);
  ASSERT_NE(at, whole.ids.end());
  EXPECT_EQ(whole.reasoning_tokens, at - whole.ids.begin() + 1);

  CompletionRequest cut = request_for({{"messages", task["messages"]}, {"enable_thinking", true}});
  cut.generation.max_tokens = 3;
  EXPECT_EQ(run(cut).reasoning_tokens, 3) << "still thinking";
  EXPECT_EQ(run(goodbye()).reasoning_tokens, 0) << "never began";
}

TEST(Completion, ReasoningThatBecomesTheAnswerCountsAsNone) {
  // The prompt claims to have ended with <think>, and the model ends without </think>.
  CompletionRequest request = goodbye();
  request.parser.starts_in_reasoning = true;
  const Completion completion = run(request);
  EXPECT_EQ(completion.content, "Goodbye! Have a nice day.");
  EXPECT_EQ(completion.reasoning_tokens, 0);
}

TEST(Completion, StopStringsCannotComeBeforeMinTokens) {
  CompletionRequest request = goodbye();
  request.stop = {"Good", "day"};
  EXPECT_EQ(run(request).text, "");
  request.generation.min_tokens = 3;
  const Completion completion = run(request);
  EXPECT_EQ(completion.text, "Goodbye! Have a nice ");
  EXPECT_EQ(completion.matched_stop, "day");
}

TEST(Completion, LogprobsComeForEveryTokenWhenAskedFor) {
  CompletionRequest request = goodbye();
  EXPECT_TRUE(run(request).tokens.empty());
  request.generation.sampling.top_logprobs = 2;
  const Completion completion = run(request);
  ASSERT_EQ(completion.tokens.size(), completion.ids.size());
  for (size_t i = 0; i < completion.ids.size(); ++i) {
    EXPECT_EQ(completion.tokens[i].id, completion.ids[i]);
    EXPECT_EQ(completion.tokens[i].top_logprobs.size(), 2U);
  }
}

}  // namespace
}  // namespace longshore::session
