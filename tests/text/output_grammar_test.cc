// Whole outputs: reasoning, answers and tool calls as the parser reads them back.
#include "text/grammar/output_grammar.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/paths.h"
#include "text/grammar/mask_cache.h"
#include "text/grammar/schema_satisfies.h"
#include "text/output_parser.h"

namespace longshore::text {
namespace {

using Calls = OutputFormat::Calls;

const Tokenizer& nano() {
  static const Tokenizer tokenizer = [] {
    auto made = Tokenizer::load(longshore::source_dir() + "/models/glm-nano/tokenizer.json");
    LS_CHECK(made.has_value());
    return std::move(*made);
  }();
  return tokenizer;
}

std::shared_ptr<const Vocabulary> vocabulary() {
  static const auto made = std::make_shared<const Vocabulary>(tokens_of(nano()));
  return made;
}

bool is_added(std::string_view text) {
  const auto id = nano().id_of(text);
  return id && nano().is_added(*id) && !nano().is_special(*id);
}

std::shared_ptr<const Automaton> compiled(const OutputFormat& format) {
  const auto grammar = output_grammar(format, is_added);
  LS_CHECK_MSG(grammar.has_value(), "{}", grammar.error().message);
  const auto made = Automaton::compile(*grammar);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return *made;
}

const Json& tools() {
  static const Json made = Json::parse(R"([
    {"type":"function","function":{"name":"get_weather","strict":true,"parameters":{"type":"object","properties":{
      "city":{"type":"string","minLength":1,"maxLength":12},"days":{"type":"integer","minimum":1,"maximum":14},
      "unit":{"enum":["celsius","fahrenheit"]},"where":{"type":"object","properties":{"lat":{"type":"number","minimum":-90,"maximum":90},
      "note":{"type":"string","maxLength":6}},"required":["lat"],"additionalProperties":false},
      "id":{"type":["integer","string"],"maxLength":8},"maybe":{"type":["boolean","null"]}},
      "required":["city","unit"],"additionalProperties":false}}},
    {"type":"function","function":{"name":"now","strict":true,"parameters":{"type":"object","properties":{}}}},
    {"type":"function","function":{"name":"search","parameters":{"type":"object","properties":{"q":{"type":"string"}}}}}])");
  return made;
}

// A random output: tokens that the masks allow, ended where it may be, soon after `most` tokens.
std::string sampled(MaskCache& masks, std::mt19937& random, int most, bool& ended,
                    uint32_t patience = 4) {
  Matcher matcher(*masks.automaton());
  Matcher scratch(*masks.automaton());
  std::vector<uint64_t> words(mask_words(masks.vocabulary()->size()));
  std::string text;
  for (int i = 0; i < most; ++i) {
    if (matcher.ended() && (matcher.complete() || random() % patience == 0)) break;
    LS_CHECK(masks.fill(matcher, scratch, words));
    std::vector<int32_t> allowed;
    std::vector<int32_t> tags;
    for (int32_t id = 0; id < masks.vocabulary()->size(); ++id) {
      if ((words[static_cast<size_t>(id) / 64] >> (id % 64) & 1U) == 0) continue;
      allowed.push_back(id);
      if (nano().is_added(id)) tags.push_back(id);
    }
    LS_CHECK(!allowed.empty());
    // Tags are a few among thousands: without help no text would ever end.
    const auto& from = !tags.empty() && random() % 3 == 0 ? tags : allowed;
    const int32_t id = from[random() % from.size()];
    LS_CHECK(matcher.push_all(masks.vocabulary()->bytes(id)));
    matcher.settle();
    text += nano().bytes(id);
  }
  ended = matcher.ended();
  return text;
}

struct Read {
  std::string reasoning;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
};

Read read(const std::string& text, const OutputFormat& format) {
  OutputParserOptions options;
  options.starts_in_reasoning = format.starts_in_reasoning;
  options.verbatim = format.calls == Calls::kNone;
  options.tools = tools();
  OutputParser parser(options);
  Read made;
  auto deltas = parser.push(text);
  for (OutputDelta& delta : parser.finish(true)) deltas.push_back(std::move(delta));
  for (const OutputDelta& delta : deltas) {
    if (delta.kind == OutputDelta::Kind::kReasoning) made.reasoning += delta.text;
    if (delta.kind == OutputDelta::Kind::kContent) made.content += delta.text;
    if (delta.kind == OutputDelta::Kind::kToolCallBegin) made.calls.emplace_back(delta.text, "");
    if (delta.kind == OutputDelta::Kind::kToolCallArgs) made.calls.back().second += delta.text;
  }
  return made;
}

void check_call(const std::string& name, const std::string& arguments) {
  const Json value = Json::parse(arguments, nullptr, false);
  ASSERT_TRUE(value.is_object()) << arguments;
  for (const Json& tool : tools()) {
    const Json& function = tool["function"];
    if (function["name"] != name) continue;
    if (!function.contains("strict")) return;
    const auto document = SchemaDocument::load(function["parameters"]);
    ASSERT_TRUE(document);
    const auto satisfied =
        LiteralChecker(*document).satisfies_all(value, {&(*document)->root()}, nullptr);
    EXPECT_TRUE(satisfied.has_value() && *satisfied) << name << arguments;
    return;
  }
  FAIL() << "no tool " << name;
}

TEST(OutputGrammar, ForcedCallsSatisfyTheirSchemas) {
  std::mt19937 random(7);
  for (const bool reasoning : {false, true}) {
    for (const Calls calls : {Calls::kRequired, Calls::kOne}) {
      const OutputFormat format{.calls = calls, .tools = tools(), .starts_in_reasoning = reasoning};
      MaskCache masks(compiled(format), vocabulary());
      int whole = 0;
      for (int i = 0; i < 60; ++i) {
        bool ended = false;
        const std::string text = sampled(masks, random, 400, ended);
        if (!ended) continue;
        ++whole;
        const Read made = read(text, format);
        EXPECT_EQ(made.content, "") << text;
        ASSERT_GE(made.calls.size(), 1U) << text;
        if (calls == Calls::kOne) {
          EXPECT_EQ(made.calls.size(), 1U) << text;
        }
        for (const auto& [name, arguments] : made.calls) check_call(name, arguments);
      }
      EXPECT_GT(whole, 20);
    }
  }
}

TEST(OutputGrammar, FreeCallsAreStrictOnceTheyBegin) {
  std::mt19937 random(8);
  const OutputFormat format{.calls = Calls::kFree, .tools = tools(), .starts_in_reasoning = true};
  ASSERT_TRUE(format.constrains());
  MaskCache masks(compiled(format), vocabulary());
  size_t calls = 0;
  for (int i = 0; i < 60; ++i) {
    bool ended = false;
    const std::string text = sampled(masks, random, 400, ended, 60);
    if (!ended) continue;
    const Read made = read(text, format);
    for (const auto& [name, arguments] : made.calls) check_call(name, arguments);
    calls += made.calls.size();
  }
  EXPECT_GT(calls, 20U);
}

TEST(OutputGrammar, AnswersBeginAfterTheReasoning) {
  const OutputFormat format{
      .schema = Json::parse(R"({"type":"object","properties":{"a":{"type":"string"}},
      "required":["a"],"additionalProperties":false})"),
      .starts_in_reasoning = true};
  const auto automaton = compiled(format);
  const std::string tag = "\xFF</think>";
  for (const auto& [text, good] : std::vector<std::pair<std::string, bool>>{
           {"thinking {}" + tag + R"({"a":"</think> <tool_call>"})", true},
           {"spelled</think>" + std::string(R"({"a":""})"), true},
           {R"({"a":""})", false},
           {"x" + tag + " {}", false},
           {"x" + tag, false}}) {
    Matcher matcher(*automaton);
    EXPECT_EQ(matcher.push_all(text) && matcher.ended(), good) << text;
  }
  const Read made =
      read("so</think>" + std::string(R"({"a":" <tool_call>x</tool_call>"})"), format);
  EXPECT_EQ(made.reasoning, "so");
  EXPECT_EQ(made.content, R"({"a":" <tool_call>x</tool_call>"})");
}

TEST(OutputGrammar, TextOfASpecialTokenNeverStandsForTheToken) {
  const OutputFormat format{.calls = Calls::kRequired, .tools = tools()};
  const auto automaton = compiled(format);
  Matcher matcher(*automaton);
  EXPECT_FALSE(matcher.push_all("<tool_call>"));
  EXPECT_TRUE(matcher.push_all("\xFF<tool_call>now\xFF</tool_call>"));
  EXPECT_TRUE(matcher.ended());
}

TEST(OutputGrammar, FaultsNameTheToolAndTheKeyword) {
  for (const auto& [parameters, words] : std::vector<std::pair<std::string, std::string>>{
           {R"({"type":"object","properties":{"a":{"not":{}}}})", "#/properties/a: not"},
           {R"({"type":"string"})", "no arguments"},
           {R"({"type":"object","properties":{" a":{}}})", "cannot stand in a tool call"},
           {R"({"type":"object","required":["b"],"additionalProperties":false})",
            "no arguments"}}) {
    OutputFormat format{.calls = Calls::kFree};
    format.tools = Json::array({{{"function", {{"name", "f"}, {"strict", true}}}}});
    format.tools[0]["function"]["parameters"] = Json::parse(parameters);
    const auto made = output_grammar(format, is_added);
    ASSERT_FALSE(made) << parameters;
    EXPECT_EQ(made.error().part, "tools[0]");
    EXPECT_THAT(made.error().message, testing::HasSubstr(words));
  }
}

}  // namespace
}  // namespace longshore::text
