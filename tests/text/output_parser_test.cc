#include "text/output_parser.h"

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace longshore::text {
namespace {

using Kind = OutputDelta::Kind;

const Json& tools() {
  static const Json kTools = Json::parse(R"([
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
      "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
      "b": {"type": "boolean"}, "o": {"type": "object"}, "a": {"type": "array"},
      "si": {"type": ["string", "integer"]}, "sn": {"anyOf": [{"type": "string"}, {"type": "null"}]},
      "any": {}, "e": {"enum": ["1", "2"]}, "ei": {"enum": [1, 2]}, "c": {"const": "x"},
      "r": {"$ref": "#/$defs/text"}, "bad": {"$ref": "#/nowhere"}, "loop": {"$ref": "#/$defs/loop"},
      "p": {"properties": {"x": {}}}, "all": {"allOf": [{"description": "d"}, {"type": "string"}]},
      "open": {"anyOf": [{"type": "integer"}, {}]}},
      "$defs": {"text": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}}}},
    {"name": "get_time", "input_schema": {"type": "object", "properties": {}}},
    {"type": "function", "function": {"name": "run", "parameters": {"properties": {
      "command": {"type": "string"}, "code": {"type": "string"}},
      "additionalProperties": {"type": "string"}}}}
  ])");
  return kTools;
}

OutputParserOptions options(bool starts_in_reasoning = false) {
  OutputParserOptions options;
  options.starts_in_reasoning = starts_in_reasoning;
  options.tools = tools();
  return options;
}

// Neighbouring texts of one kind joined: what must not depend on the split.
void append(std::vector<OutputDelta>& all, const std::vector<OutputDelta>& more) {
  for (const OutputDelta& delta : more) {
    const bool text = delta.kind == Kind::kReasoning || delta.kind == Kind::kContent ||
                      delta.kind == Kind::kToolCallArgs;
    EXPECT_FALSE(text && delta.text.empty());
    if (text && !all.empty() && all.back().kind == delta.kind) {
      all.back().text += delta.text;
    } else {
      all.push_back(delta);
    }
  }
}

std::vector<OutputDelta> parse(const std::vector<std::string_view>& pieces,
                               const OutputParserOptions& options, bool stopped) {
  OutputParser parser(options);
  std::vector<OutputDelta> all;
  for (const std::string_view piece : pieces) append(all, parser.push(piece));
  append(all, parser.finish(stopped));
  return all;
}

// "R[reasoning]C[content]f({args})", a call that does not end lacks its ')'.
std::string show(const std::vector<OutputDelta>& deltas) {
  std::string out;
  int calls = 0;
  std::string arguments;  // of the latest call
  bool open = false;
  for (const OutputDelta& delta : deltas) {
    switch (delta.kind) {
      case Kind::kReasoning:
        out += "R[" + delta.text + "]";
        break;
      case Kind::kContent:
        out += "C[" + delta.text + "]";
        break;
      case Kind::kToolCallBegin:
        EXPECT_EQ(delta.call_index, calls);
        out += delta.text + "(";
        arguments.clear();
        open = true;
        break;
      case Kind::kToolCallArgs:
        EXPECT_EQ(delta.call_index, calls);
        arguments = delta.text;
        EXPECT_TRUE(delta.text.starts_with('{')) << delta.text;
        out += delta.text;
        break;
      case Kind::kToolCallEnd:
        EXPECT_EQ(delta.call_index, calls++);
        EXPECT_TRUE(Json::accept(arguments)) << arguments;
        out += ")";
        open = false;
        break;
    }
  }
  EXPECT_FALSE(open && Json::accept(arguments)) << "cut, but looks whole: " << arguments;
  return out;
}

std::string whole(std::string_view text, bool stopped = true) {
  return show(parse({text}, options(), stopped));
}
std::string thinking(std::string_view text, bool stopped = true) {
  return show(parse({text}, options(true), stopped));
}
std::string without_schema(std::string_view text) {
  return show(parse({text}, OutputParserOptions{}, true));
}
std::string call(const std::string& key, const std::string& value) {
  return "<tool_call>f<arg_key>" + key + "</arg_key><arg_value>" + value +
         "</arg_value></tool_call>";
}
std::string quoted(const std::string& text) {
  return fmt::format("\"{}\"", text);
}
// The JSON of one argument.
std::string typed(const std::string& key, const std::string& value) {
  const std::string shown = whole(call(key, value));
  const std::string before = "f({\"" + key + "\":";
  EXPECT_TRUE(shown.starts_with(before) && shown.ends_with("})")) << shown;
  return shown.substr(before.size(), shown.size() - before.size() - 2);
}

// -- reasoning --

TEST(OutputParser, SplitsReasoningFromContent) {
  EXPECT_EQ(thinking("I think.</think>Yes."), "R[I think.]C[Yes.]");
  EXPECT_EQ(thinking("\nI think.\n</think>\n\nYes.\n"), "R[I think.]C[Yes.\n]");
  EXPECT_EQ(thinking("</think>Yes."), "C[Yes.]");
  EXPECT_EQ(thinking("a\n\n b </think>c"), "R[a\n\n b]C[c]");
  EXPECT_EQ(thinking("a < b </thin </think>c < d"), "R[a < b </thin]C[c < d]");
}

TEST(OutputParser, TakesAThinkTagThatTheModelWrote) {
  EXPECT_EQ(thinking("<think>a</think>b"), "R[a]C[b]");
  EXPECT_EQ(whole("\n<think>\na</think>b"), "R[a]C[b]");
  EXPECT_EQ(whole("</think>b"), "C[b]");
  EXPECT_EQ(thinking("a</think>\n</think>b"), "R[a]C[b]");
  EXPECT_EQ(whole("b <think> c </think>"), "C[b <think> c </think>]");
}

TEST(OutputParser, KeepsTheIndentationOfTheFirstLine) {
  EXPECT_EQ(thinking("a</think>\n  \n    code"), "R[a]C[    code]");
  EXPECT_EQ(whole("  x"), "C[  x]");
}

TEST(OutputParser, PromotesReasoningThatNeverEnds) {
  EXPECT_EQ(thinking(" The answer. ", true), "R[The answer.]C[The answer.]");
  EXPECT_EQ(thinking(" The answer. ", false), "R[The answer.]");
  EXPECT_EQ(thinking("a</thi", false), "R[a]");
  EXPECT_EQ(thinking(" \n", true), "");
  EXPECT_EQ(thinking("", true), "");
}

TEST(OutputParser, ACallOfAKnownToolEndsTheReasoning) {
  EXPECT_EQ(thinking("I call <tool_call>get_time</tool_call>"), "R[I call]get_time({})");
  EXPECT_EQ(thinking("a <tool_call> tag</think>b"), "R[a <tool_call> tag]C[b]");
  EXPECT_EQ(thinking("a <tool_call>get_timer</think>b"), "R[a <tool_call>get_timer]C[b]");
  EXPECT_EQ(thinking("a<tool_call>get_ti", false), "R[a]");
}

TEST(OutputParser, LeavesReasoningAloneWhenToldSo) {
  OutputParserOptions raw = options(true);
  raw.parse_reasoning = false;
  EXPECT_EQ(show(parse({"\n<think>a</think>\nb "}, raw, true)), "C[\n<think>a</think>\nb ]");
  EXPECT_EQ(show(parse({"a</think><tool_call>get_time</tool_call>"}, raw, true)),
            "C[a</think>]get_time({})");
}

// -- calls --

TEST(OutputParser, ParsesCalls) {
  EXPECT_EQ(whole("<tool_call>get_time</tool_call>"), "get_time({})");
  EXPECT_EQ(whole(call("s", "x")), R"(f({"s":"x"}))");
  EXPECT_EQ(whole("<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value><arg_key>i</arg_key>"
                  "<arg_value>5</arg_value></tool_call>"),
            R"(f({"s":"x","i":5}))");
  EXPECT_EQ(whole("<tool_call>get_time</tool_call><tool_call>get_time</tool_call>"),
            "get_time({})get_time({})");
  EXPECT_EQ(thinking("a</think>b<tool_call>get_time</tool_call>"), "R[a]C[b]get_time({})");
}

TEST(OutputParser, TakesTheLineBreaksOfGlm45) {
  EXPECT_EQ(whole("Sure.\n\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n"
                  "<arg_key> i </arg_key>\n<arg_value> 5 </arg_value>\n</tool_call>\n"),
            R"(C[Sure.]f({"s":"x","i":5}))");
  EXPECT_EQ(whole("<tool_call>\nget_time\n</tool_call>"), "get_time({})");
}

TEST(OutputParser, DropsBlanksAroundCallsButKeepsTheSeparation) {
  EXPECT_EQ(whole("\n<tool_call>get_time</tool_call>\n<tool_call>get_time</tool_call>\n"),
            "get_time({})get_time({})");
  EXPECT_EQ(whole("A\n<tool_call>get_time</tool_call>\nB"), "C[A]get_time({})C[\n\nB]");
  EXPECT_EQ(whole("<tool_call>get_time</tool_call>\n\nB "), "get_time({})C[B ]");
}

TEST(OutputParser, TypesValuesByTheSchema) {
  EXPECT_EQ(typed("s", "5"), R"("5")");
  EXPECT_EQ(typed("s", " {\"a\": 1}\n"), R"(" {\"a\": 1}\n")");
  EXPECT_EQ(typed("s", "\"q\""), R"("\"q\"")");
  EXPECT_EQ(typed("s", ""), R"("")");
  EXPECT_EQ(typed("i", "5"), "5");
  EXPECT_EQ(typed("i", "five"), R"("five")");
  EXPECT_EQ(typed("i", "123456789012345678901234567890"), "123456789012345678901234567890");
  EXPECT_EQ(typed("n", "1.50"), "1.50");
  EXPECT_EQ(typed("n", "NaN"), R"("NaN")");
  EXPECT_EQ(typed("b", "true"), "true");
  EXPECT_EQ(typed("b", "True"), R"("True")");
  EXPECT_EQ(typed("o", "{\"k\": [1, \"</x>\"]}"), "{\"k\": [1, \"</x>\"]}");
  EXPECT_EQ(typed("o", "{broken"), R"("{broken")");
  EXPECT_EQ(typed("a", "[\"x\"]"), "[\"x\"]");
  EXPECT_EQ(typed("i", "\"5\""), R"("5")");
}

TEST(OutputParser, TypesValuesByCombinedSchemas) {
  EXPECT_EQ(typed("si", "5"), "5");
  EXPECT_EQ(typed("si", "5.5"), R"("5.5")");
  EXPECT_EQ(typed("si", "true"), R"("true")");
  EXPECT_EQ(typed("sn", "null"), "null");
  EXPECT_EQ(typed("sn", "5"), R"("5")");
  EXPECT_EQ(typed("e", "1"), R"("1")");
  EXPECT_EQ(typed("ei", "1"), "1");
  EXPECT_EQ(typed("c", "1"), R"("1")");
  EXPECT_EQ(typed("r", "1"), R"("1")");
  EXPECT_EQ(typed("bad", "1"), "1");
  EXPECT_EQ(typed("loop", "1"), "1");
  EXPECT_EQ(typed("p", "{}"), "{}");
  EXPECT_EQ(typed("all", "1"), R"("1")");
  EXPECT_EQ(typed("open", "x"), R"("x")");
  EXPECT_EQ(whole("<tool_call>run<arg_key>other</arg_key><arg_value>1</arg_value></tool_call>"),
            R"(run({"other":"1"}))");
}

TEST(OutputParser, WithoutSchemaOnlyJsonOtherThanStringsIsJson) {
  for (const std::string& key : {std::string("any"), std::string("unknown")}) {
    EXPECT_EQ(typed(key, "5"), "5");
    EXPECT_EQ(typed(key, "[1]"), "[1]");
    EXPECT_EQ(typed(key, "null"), "null");
    EXPECT_EQ(typed(key, "\"q\""), R"("\"q\"")");
    EXPECT_EQ(typed(key, "5 apples"), R"("5 apples")");
  }
  EXPECT_EQ(without_schema(call("k", "true")), R"(f({"k":true}))");
}

TEST(OutputParser, EscapesKeysAndValues) {
  EXPECT_EQ(typed("s", "a\"b\\c\n\t\x01\xE6\xBC\xA2"), "\"a\\\"b\\\\c\\n\\t\\u0001\xE6\xBC\xA2\"");
  EXPECT_EQ(typed("i", std::string("5\0x", 3)), R"("5\u0000x")");
  EXPECT_EQ(without_schema(call("k\"", "x")), R"(f({"k\"":"x"}))");
  EXPECT_EQ(typed("a", std::string(100000, '[')), quoted(std::string(100000, '[')));
}

TEST(OutputParser, ValuesMayLookLikeMarkup) {
  for (const std::string value :
       {"<", "a < b", "<b>x</b>", "</arg_valu", "</arg_value", "< /arg_value>", "<arg_key>",
        "</tool_call>", "x</tool_call>y", "<tool_call>", "<arg_value>", "</think>", "<think>",
        "</arg_key>", "<arg_key>k</arg_key>"}) {
    EXPECT_EQ(typed("s", value), quoted(value));
  }
}

TEST(OutputParser, TheFirstOfTwoEqualKeysCounts) {
  EXPECT_EQ(whole("<tool_call>f<arg_key>i</arg_key><arg_value>1</arg_value><arg_key>i</arg_key>"
                  "<arg_value>2</arg_value></tool_call>"),
            R"(f({"i":1}))");
}

TEST(OutputParser, TakesTheJsonForm) {
  EXPECT_EQ(whole("<tool_call>f>{\"s\": \"}</tool_call>\"}</tool_call>B"),
            "f({\"s\": \"}</tool_call>\"})C[B]");
  EXPECT_EQ(whole("<tool_call>f\n{\"i\": [1, {}]}\n</tool_call>"), "f({\"i\": [1, {}]})");
  EXPECT_EQ(whole("<tool_call>f>{}<tool_call>get_time>{}"), "f({})get_time({})");
  EXPECT_EQ(whole("<tool_call>f>{\"i\": 1}}</tool_call>"), "f({\"i\": 1})");
  EXPECT_EQ(whole("<tool_call>f>{\"i\": 1} Done."), "f({\"i\": 1})C[Done.]");
  EXPECT_EQ(whole("<tool_call>f>{broken}</tool_call>B"), "f({})C[B]");
  EXPECT_EQ(whole("<tool_call>f>{\"i\": 1", true), "f({})");
  EXPECT_EQ(whole("<tool_call>f>{\"i\": 1}", false), "f({\"i\": 1})")
      << "whole, only its tag is cut";
  EXPECT_EQ(whole("<tool_call>f>{\"i\": </tool_call>B"), "f({})C[B]");
  EXPECT_EQ(whole("<tool_call>f><arg_key>i</arg_key><arg_value>1</arg_value></tool_call>"),
            R"(f({"i":1}))");
}

// -- repair --

TEST(OutputParser, RepairsLostTags) {
  const std::string good = R"(run({"command":"ls","code":"x"}))";
  const std::string tail = "<arg_key>code</arg_key><arg_value>x</arg_value></tool_call>";
  for (const std::string& head : std::vector<std::string>{
           "<arg_key>command</arg_key>ls</arg_value>",               // <arg_value>
           "<arg_key>command</arg_key>\nls</arg_value>",             //
           "command</arg_key><arg_value>ls</arg_value>",             // <arg_key>
           "\ncommand</arg_key>\n<arg_value>ls</arg_value>",         //
           "<tool_call>command</arg_key><arg_value>ls</arg_value>",  // another tag in its place
           "<arg_key>command<arg_value>ls</arg_value>",              // </arg_key>
           "<arg_key>command</arg_key><arg_value>ls",                // </arg_value>
           "<arg_key>command</arg_key>ls",                           // both tags of the value
           "\ncommand<arg_value>ls</arg_value>"}) {                  // both tags of the key
    EXPECT_EQ(whole("<tool_call>run" + head + tail), good) << head;
  }
  const std::string first = "<tool_call>run<arg_key>command</arg_key><arg_value>ls</arg_value>";
  EXPECT_EQ(whole(first + "code</arg_key><arg_value>x</arg_value></tool_call>"), good);
  EXPECT_EQ(whole(first + "<arg_key>code</arg_key>x</arg_value></tool_call>"), good);
  EXPECT_EQ(whole("<tool_call>get_time</arg_value></tool_call>"), "get_time({})");
}

TEST(OutputParser, RepairsLostEndsOfCalls) {
  const std::string open = "<tool_call>f<arg_key>s</arg_key><arg_value>x";
  EXPECT_EQ(whole(open + "</tool_call>"), R"(f({"s":"x"}))");
  EXPECT_EQ(whole(open + "</tool_call>B"), R"(f({"s":"x"})C[B])");
  EXPECT_EQ(whole(open + "</tool_call>\n<tool_call>get_time</tool_call>"),
            R"(f({"s":"x"})get_time({}))");
  EXPECT_EQ(whole(open + "</arg_value><tool_call>get_time</tool_call>"),
            R"(f({"s":"x"})get_time({}))");
  EXPECT_EQ(whole(open + "</arg_value>"), R"(f({"s":"x"}))");
  EXPECT_EQ(whole(open, true), R"(f({"s":"x"}))");
  EXPECT_EQ(whole("<tool_call>get_time", true), "get_time({})");
}

// -- leaks --

TEST(OutputParser, ACallThatIsCutStaysOpen) {
  const std::string text =
      "A <tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value><arg_key>i</arg_key><arg_value>57"
      "</arg_value></tool_call>";
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string shown = whole(text.substr(0, length), false);
    EXPECT_EQ(shown.find("arg"), std::string::npos) << shown;
    EXPECT_EQ(shown.find("tool"), std::string::npos) << shown;
  }
  EXPECT_EQ(whole(text.substr(0, text.find("57") + 1), false), R"(C[A]f({"s":"x")");
  EXPECT_EQ(whole("A <tool_call>get_ti", false), "C[A]");
  EXPECT_EQ(whole("A <tool_call>get_time\n", false), "C[A]");
  EXPECT_EQ(whole("A <tool_call>f<arg_key>s", false), "C[A]f({");
  EXPECT_EQ(whole("<tool_call>f>{\"i\": 1", false), "f({");
  EXPECT_EQ(whole("<tool_call>f<arg_key>s</arg_key><arg_value>a</tool_call>b", false), "f({")
      << "the tag may be text of the value";
}

TEST(OutputParser, DropsCallsWithoutALeakWhenToldSo) {
  OutputParserOptions none = options();
  none.parse_tool_calls = false;
  EXPECT_EQ(show(parse({fmt::format("A{}B{}", call("s", "x"), call("s", "y"))}, none, true)),
            "C[AB]");
  EXPECT_EQ(show(parse({call("s", "x").substr(0, 40)}, none, false)), "");
}

TEST(OutputParser, TextAboutCallsIsContent) {
  EXPECT_EQ(whole("a < b <tool b> c"), "C[a < b <tool b> c]");
  EXPECT_EQ(whole("Use `<tool_call>` here.\n"), "C[Use `` here.\n]");
  EXPECT_EQ(whole("x <tool_call> " + std::string(300, 'y')), "C[x  " + std::string(300, 'y') + "]");
  EXPECT_EQ(whole("a</tool_call>b</arg_value>c"), "C[abc]");
  EXPECT_EQ(whole("<tool_call></tool_call>B"), "C[B]");
  EXPECT_EQ(whole("<tool_call><arg_key>s</arg_key><arg_value>x</arg_value></tool_call>B"), "C[B]");
  EXPECT_EQ(whole("x <tool", true), "C[x <tool]");
  EXPECT_EQ(whole("x <tool", false), "C[x ]");
  EXPECT_EQ(whole("x <", false), "C[x <]");
}

TEST(OutputParser, ACallEndsBeforeLaterContent) {
  OutputParser parser(options());
  const auto deltas = parser.push("<tool_call>get_time</tool_call>B");
  ASSERT_EQ(deltas.size(), 4U);
  EXPECT_EQ(deltas[2].kind, Kind::kToolCallEnd);
  EXPECT_EQ(deltas[3].kind, Kind::kContent);
}

// -- streams --

std::vector<std::string> corpus() {
  const std::string two = "<arg_key>s</arg_key><arg_value>a<b</arg_value>";
  return {
      "Think\xE6\xBC\xA2 more.\n</think>\n\nAnswer \xF0\x9F\xA6\x80 <i>x</i>\n" + call("s", "x") +
          "\nB\n",
      "<think> a </think></think> <tool_call>f\n" + two +
          "\n</tool_call>\n<tool_call>get_time</tool_call>",
      "a <tool_call>get_time</tool_call>",
      "a <tool_call> "
      "x</think><tool_call>run<tool_call>command</arg_key>ls</arg_value></tool_call>t",
      "<tool_call>runcommand</arg_key><arg_value>l</tool_call>s</arg_value></tool_call>",
      "<tool_call>f<arg_key>i</arg_key><arg_value>5<arg_key>b</arg_key><arg_value>true</"
      "tool_call>B",
      "<tool_call>f" + two + "<tool_call>get_time<tool_call>f" + two,
      "<tool_call>f>{\"i\": [\"\\\"}\", 2]} } </tool_call> B <tool_call>f>{<b",
      "<tool_call>` no </tool_call> <tool_call>two words<arg_key>",
      "\n\n  <tool_call>x</tool_c <arg_key></arg_key>5</tool_call>  <tool_call>f<arg_ke",
  };
}

std::vector<size_t> boundaries(const std::string& text) {
  std::vector<size_t> at;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || (static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) at.push_back(i);
  }
  return at;
}

std::vector<OutputParserOptions> all_options() {
  std::vector<OutputParserOptions> all;
  for (int bits = 0; bits < 16; ++bits) {
    OutputParserOptions o = options((bits & 1) != 0);
    o.parse_reasoning = (bits & 2) == 0;
    o.parse_tool_calls = (bits & 4) == 0;
    if ((bits & 8) != 0) o.tools = nullptr;
    all.push_back(o);
  }
  return all;
}

void expect_same(const std::string& text, const std::vector<size_t>& cuts,
                 const OutputParserOptions& o, bool stopped, const std::string& expected) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  for (const size_t end : cuts) {
    pieces.push_back(std::string_view(text).substr(begin, end - begin));
    begin = end;
  }
  pieces.push_back(std::string_view(text).substr(begin));
  ASSERT_EQ(show(parse(pieces, o, stopped)), expected)
      << text << " cut at " << ::testing::PrintToString(cuts);
}

TEST(OutputParser, EverySplitInTwoAndSingleCharactersGiveTheSame) {
  for (const std::string& text : corpus()) {
    const std::vector<size_t> at = boundaries(text);
    for (const OutputParserOptions& o : all_options()) {
      for (const bool stopped : {true, false}) {
        const std::string expected = show(parse({text}, o, stopped));
        for (const size_t cut : at) expect_same(text, {cut}, o, stopped, expected);
        expect_same(text, at, o, stopped, expected);
      }
    }
  }
}

TEST(OutputParser, EverySplitInThreeGivesTheSame) {
  for (const std::string& text : corpus()) {
    const std::vector<size_t> at = boundaries(text);
    for (const bool starts : {true, false}) {
      const std::string expected = show(parse({text}, options(starts), false));
      for (size_t i = 0; i < at.size(); ++i) {
        for (size_t j = i; j < at.size(); ++j) {
          expect_same(text, {at[i], at[j]}, options(starts), false, expected);
        }
      }
    }
  }
}

TEST(OutputParser, RandomMarkupInRandomPiecesGivesTheSame) {
  const std::vector<std::string> parts = {"<tool_call>",
                                          "</tool_call>",
                                          "<arg_key>",
                                          "</arg_key>",
                                          "<arg_value>",
                                          "</arg_value>",
                                          "<think>",
                                          "</think>",
                                          "f",
                                          "get_time",
                                          "run",
                                          "command",
                                          " ",
                                          "\n",
                                          "x",
                                          "{",
                                          "}",
                                          "\"",
                                          "[1]",
                                          "<",
                                          "</",
                                          "5",
                                          "\xE6\xBC\xA2",
                                          ">",
                                          "<tool_",
                                          "`",
                                          "text and more"};
  std::mt19937 random(11);
  const auto kinds = all_options();
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (uint32_t n = random() % 24; n > 0; --n) text += parts[random() % parts.size()];
    const std::vector<size_t> at = boundaries(text);
    std::vector<size_t> cuts;
    const uint32_t rarity = 1 + random() % 6;
    for (const size_t cut : at) {
      if (random() % rarity == 0) cuts.push_back(cut);
    }
    const OutputParserOptions& o = kinds[random() % kinds.size()];
    const bool stopped = random() % 2 == 0;
    const std::string expected = show(parse({text}, o, stopped));
    expect_same(text, cuts, o, stopped, expected);
    if (HasFatalFailure()) return;
  }
}

TEST(OutputParser, LongStreamsTakeLinearTime) {
  const std::string long_text(1 << 20, 'x');
  const std::string blanks(1 << 20, ' ');
  std::string angles;
  while (angles.size() < (1 << 20)) angles += "</arg_key";
  std::string marks = "<tool_call>f<arg_key>s</arg_key><arg_value>";
  while (marks.size() < (1 << 20)) marks += "<arg_key></tool_call ";
  for (const std::string& text :
       {"<tool_call>f<arg_key>s</arg_key><arg_value>" + long_text, marks, angles, blanks,
        "<tool_call>" + blanks,
        "<tool_call>f<arg_key>s</arg_key><arg_value></tool_call>" + long_text,
        "<tool_call>f<tool_call>" + long_text, "<tool_call>f>{" + blanks,
        long_text + "</think>" + blanks, "</think><tool_call>f" + long_text}) {
    for (const bool starts : {true, false}) {
      const auto start = std::chrono::steady_clock::now();
      OutputParser parser(options(starts));
      for (const char& c : text) parser.push(std::string_view(&c, 1));
      parser.finish(true);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      EXPECT_LT(took.count(), 20.0) << text.substr(0, 60);
    }
  }
}

}  // namespace
}  // namespace longshore::text
