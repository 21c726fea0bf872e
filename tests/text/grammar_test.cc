// Grammars as machines: notation, patterns, numbers, masks, limits.
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/mask_cache.h"
#include "text/grammar/numbers.h"
#include "text/grammar/regex.h"
#include "text/grammar/schema.h"
#include "text/grammar/strings.h"
#include "text/json_depth.h"

namespace longshore::text {
namespace {

using testing::HasSubstr;
using Automata = std::shared_ptr<const Automaton>;

Result<Automata> try_gbnf(const std::string& source) {
  LS_TRY(const Grammar grammar, parse_gbnf(source));
  return Automaton::compile(grammar);
}
Result<Automata> try_schema(const std::string& schema) {
  LS_TRY(const Grammar grammar, schema_grammar(Json::parse(schema)));
  return Automaton::compile(grammar);
}
Automata checked(Result<Automata> made) {
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return *made;
}

bool takes(const Automata& automaton, std::string_view text) {
  Matcher matcher(*automaton);
  return matcher.push_all(text) && matcher.ended();
}

TEST(Gbnf, TakesItsTextsAndNoOthers) {
  struct Case {
    const char* grammar;
    std::vector<const char*> good;
    std::vector<const char*> bad;
  };
  for (const Case& one : std::vector<Case>{
           {"root ::= \"a\" | \"bc\"", {"a", "bc"}, {"", "b", "abc", "aa"}},
           {"root ::= [a-c]+ \"\\n\"?  # comment\n", {"abc", "a\n"}, {"", "\n", "abd"}},
           {"root ::= [^a-c\"]{2,3}", {"xy", "öäü"}, {"x", "xyzw", "ax", "x\""}},
           {"root ::= x{2} y{1,}\nx ::= \"x\"\ny ::= \"y\" | \"z\"",
            {"xxy", "xxyzz"},
            {"xx", "xy"}},
           {"root ::= (\n  \"a\"\n  | \"b\"\n)*\n", {"", "abba"}, {"c"}},
           // Left recursion, right recursion, ambiguity, rules that may be empty.
           {"root ::= root \"+\" n | n\nn ::= [0-9]", {"1", "1+2+3"}, {"", "+", "1+"}},
           {"root ::= \"(\" root \")\" | \"\"", {"", "()", "((()))"}, {"(", "())"}},
           {"root ::= e\ne ::= e e | \"a\" | \"\"", {"", "a", "aaaa"}, {"b"}},
           {"root ::= root \"+\" root | root root | \"(\" root \")\" | [0-9]",
            {"1", "1+2+3", "12(3+4)5", "((1))"},
            {"", "+", "1+", "1++2", "(1", "()"}},
           {"root ::= root root root | root | \"a\"", {"a", "aaa", "aaaaa"}, {"", "aa", "aaaa"}},
           {"root ::= root x root | root \"!\" | \"a\"\nx ::= root \"-\" | \",\"",
            {"a", "a!", "a,a", "aa-a", "a,a!,a", "aa,a-a!"},
            {"", "aa", "a-a", ",a", "a,"}},
           {"root ::= a b\na ::= \"x\"?\nb ::= a a \"y\"", {"y", "xy", "xxxy"}, {"xxxxy", ""}},
           {"root ::= .", {"a", "é", "😀"}, {"", "ab", "\xC3"}},
           {"root ::= \"\\x41\\u00e9\\U0001F600\\\"\\\\\"", {"Aé😀\"\\"}, {"A"}}}) {
    const Automata automaton = checked(try_gbnf(one.grammar));
    for (const char* text : one.good) EXPECT_TRUE(takes(automaton, text)) << one.grammar << text;
    for (const char* text : one.bad) EXPECT_FALSE(takes(automaton, text)) << one.grammar << text;
  }
}

TEST(Gbnf, FaultsNameTheLine) {
  for (const auto& [grammar, words] : std::vector<std::pair<std::string, std::string>>{
           {"", "no rule `root`"},
           {"a ::= \"x\"", "no rule `root`"},
           {"root ::= \"x", "without its end, line 1"},
           {"root ::= a", "the rule a is not defined, line 1"},
           {"root ::= \"x\"\nroot ::= \"y\"", "there twice, line 2"},
           {"root ::= \"x\"\n\n)", "expected the name of a rule, line 3"},
           {"root ::= (\"x\"", "`(` without `)`"},
           {"root ::= [z-a]", "out of order"},
           {"root ::= \"\\q\"", "unknown escape"},
           {"root ::= \"x\"{3,2}", "m > n"},
           {"root ::= \"x\"{99999}", "10000"},
           {"root ::= <think>", "tokens"},
           {"root ::= " + std::string(300, '('), "too deep"},
           {"root ::= \"\xFF\"", "UTF-8"},
           {"root ::= root \"a\"", "root: no text at all"},
           {"root ::= \"x\" a\na ::= b \"y\"\nb ::= \"z\" b", "b: no text at all"},
           {"root ::= a{10000}\na ::= ((\"b\"{9000})){9000}", "too large"}}) {
    const auto made = try_gbnf(grammar);
    ASSERT_FALSE(made) << grammar;
    EXPECT_THAT(made.error().message, HasSubstr(words)) << grammar.substr(0, 40);
  }
}

TEST(Pattern, MatchesAnywhereUnlessAnchored) {
  struct Case {
    const char* pattern;
    std::vector<const char*> good;
    std::vector<const char*> bad;
  };
  for (const Case& one :
       std::vector<Case>{{"b+", {"b", "abba", "\nb"}, {"", "a"}},
                         {"^a|b$", {"ax", "xb", "ab"}, {"xa", "bx", ""}},
                         {"^(a|b)*c{2,3}$", {"cc", "abccc"}, {"c", "cccc", "abcc "}},
                         {"^[^\\d\\s]$", {"x", "é"}, {"1", " ", "xy"}},
                         {"^\\w+\\.\\w{2,}$", {"a_1.com"}, {"a.c", "a-b.com"}},
                         {"^.$", {"x", "😀"}, {"\n", "xy"}},
                         {"^(?:ab)?(?<n>c)*?$", {"", "ab", "abcc"}, {"a", "abab"}},
                         {"^[\\]\\-a]+$", {"]-a"}, {"b"}},
                         {"^\\u00e9\\x41\\u{1F600}\\t$", {"éA😀\t"}, {"é"}},
                         {"^$", {""}, {"a"}},
                         {"a{0}b", {"b", "ab"}, {"a"}},
                         {"$^", {""}, {"a", "aa"}}}) {
    const auto made = compile_pattern(one.pattern, 10'000);
    ASSERT_TRUE(made) << made.error().message;
    for (const char* text : one.good)
      EXPECT_TRUE(made->accepts(text)) << one.pattern << ' ' << text;
    for (const char* text : one.bad)
      EXPECT_FALSE(made->accepts(text)) << one.pattern << ' ' << text;
  }
}

TEST(Pattern, RefusesWhatIsNotRegularByName) {
  for (const auto& [pattern, words] : std::vector<std::pair<std::string, std::string>>{
           {"(a)\\1", "backreferences"},
           {"(?=a)", "lookahead"},
           {"(?<!a)b", "lookbehind"},
           {"\\bword", "\\b"},
           {"\\p{L}", "\\p"},
           {"a{5000}", "1000"},
           {"(", "without"},
           {"a**", "nothing to repeat"},
           {"^(.*a.{24})$", "states"},
           {"((((a{900}){900}){900}){900})", "too large"}}) {
    const auto made = compile_pattern(pattern, 20'000);
    ASSERT_FALSE(made) << pattern;
    EXPECT_THAT(made.error().message, HasSubstr(words)) << pattern;
  }
}

TEST(Numbers, AreExactlyThoseInTheRange) {
  std::vector<std::string> texts;
  for (const char* whole :
       {"0", "1", "2", "5", "9", "10", "11", "19", "99", "100", "123", "1000"}) {
    for (const char* fraction : {"", ".0", ".5", ".25", ".49", ".51", ".001", ".999"}) {
      texts.push_back(std::string(whole) + fraction);
      texts.push_back("-" + texts.back());
    }
  }
  const std::vector<std::string> bounds = {"0",    "1",    "-1",  "10",     "-10", "0.5",
                                           "-0.5", "99.5", "100", "-99.51", "11",  "2.25"};
  for (const std::string& low : bounds) {
    for (const std::string& high : bounds) {
      for (int kind = 0; kind < 8; ++kind) {
        const NumberRange range{.low = NumberRange::Bound{low, (kind & 1) != 0},
                                .high = NumberRange::Bound{high, (kind & 2) != 0},
                                .whole = (kind & 4) != 0};
        const auto machine = numbers_in(range);
        ASSERT_TRUE(machine);
        for (const std::string& text : texts) {
          const double value = std::stod(text);
          const bool negative_zero = value == 0 && text[0] == '-';
          const bool in =
              !negative_zero && (!range.whole || text.find('.') == std::string::npos) &&
              (range.low->exclusive ? value > std::stod(low) : value >= std::stod(low)) &&
              (range.high->exclusive ? value < std::stod(high) : value <= std::stod(high));
          ASSERT_EQ(machine->accepts(text), in)
              << text << " in " << low << ' ' << high << " kind " << kind;
        }
      }
    }
  }
}

TEST(Numbers, HaveOneForm) {
  for (const auto& [json, plain] : std::vector<std::pair<std::string, std::string>>{
           {"1.0", "1"},
           {"1e3", "1000"},
           {"-0.0", "0"},
           {"0.1", "0.1"},
           {"1e-7", "0.0000001"},
           {"12345678901234567890", "12345678901234567890"},
           {"1e23", "1" + std::string(23, '0')},
           {"-1.5e30", "-15" + std::string(29, '0')},
           {"-2.50", "-2.5"}}) {
    EXPECT_EQ(plain_number(Json::parse(json)), plain);
  }
}

// Random bytes, words, and marks that close and open at once.
std::shared_ptr<const Vocabulary> small_vocabulary() {
  std::mt19937 random(3);
  std::vector<std::string> tokens(1);  // id 0 stands for nothing
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  const std::string marks = "{}[]\",:0123456789abx. \\nué<";
  while (tokens.size() < 3000) {
    std::string token;
    for (size_t length = 2 + random() % 4; length > 0; --length)
      token += marks[random() % marks.size()];
    tokens.push_back(token);
  }
  for (const char* tag : {"<tool_call>", "</think>"}) tokens.push_back("\xFF" + std::string(tag));
  return std::make_shared<const Vocabulary>(std::move(tokens));
}

const std::vector<std::pair<const char*, Automata>>& grammars() {
  static const std::vector<std::pair<const char*, Automata>> made = {
      {"any", checked(try_schema("{}"))},
      {"object", checked(try_schema(R"({"properties":{"a":{"type":"string","maxLength":9},
          "b":{"type":"array","items":{"type":"number","minimum":-3}}}})"))},
      {"lengths", checked(try_schema(R"({"type":"string","minLength":4,"maxLength":30})"))},
      {"pattern", checked(try_schema(R"({"type":"string","pattern":"[a-b]\\.","maxLength":20})"))},
      {"union", checked(try_schema(R"({"anyOf":[{"const":"aa"},{"const":"ab"},{"type":"integer"},
          {"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]}]})"))},
      {"left", checked(try_gbnf("root ::= root [,:] n | n\nn ::= [0-9]+ (\"a\" | \"b\")*"))},
      {"empty", checked(try_gbnf("root ::= w \"{\" w root? w \"}\" w\nw ::= [ ]*"))},
      {"ambiguous",
       checked(
           try_gbnf("root ::= e\ne ::= f | \"a\" | \"ab\" | \"b\" | \"[\" e \"]\"\nf ::= e e"))}};
  return made;
}

TEST(Masks, AllowExactlyTheTokensThatCanBeTaken) {
  const auto vocabulary = small_vocabulary();
  const size_t words = mask_words(vocabulary->size());
  std::mt19937 random(5);
  for (const size_t limit : {size_t{1} << 26, size_t{3000}, size_t{0}}) {
    for (const auto& [name, automaton] : grammars()) {
      MaskCache masks(automaton, vocabulary, limit);
      Matcher scratch(*automaton);
      for (int round = 0; round < 12; ++round) {
        Matcher matcher(*automaton);
        for (int step = 0; step < 25; ++step) {
          std::vector<uint64_t> mask(words, ~uint64_t{0});  // poisoned
          std::vector<uint64_t> walked(words, ~uint64_t{0});
          ASSERT_TRUE(masks.fill(matcher, scratch, mask));
          ASSERT_TRUE(MaskCache::fill_by_walking(*vocabulary, matcher, walked));
          ASSERT_EQ(mask, walked) << name << " after " << step;
          std::vector<int32_t> allowed;
          for (int32_t id = 0; id < vocabulary->size(); ++id) {
            const std::string_view bytes = vocabulary->bytes(id);
            const bool good = !bytes.empty() && matcher.push_all(bytes);
            if (good) allowed.push_back(id);
            matcher.pop_to(0);
            const bool bit = (mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1U) != 0;
            ASSERT_EQ(bit, good) << name << ": token " << bytes << " after " << step;
          }
          if (allowed.empty()) {
            EXPECT_TRUE(matcher.complete()) << name;
            break;
          }
          ASSERT_TRUE(matcher.push_all(vocabulary->bytes(allowed[random() % allowed.size()])));
          matcher.settle();
        }
      }
    }
  }
}

TEST(Masks, AreKeptWithinTheirMemory) {
  const auto vocabulary = small_vocabulary();
  const Automata automaton = grammars()[0].second;
  MaskCache masks(automaton, vocabulary, 20'000);
  Matcher matcher(*automaton);
  Matcher scratch(*automaton);
  std::vector<uint64_t> words(mask_words(vocabulary->size()));
  for (const char c : std::string(R"({"a":[1,{"b":"x"},null],"c":"\"d\\"})")) {
    ASSERT_TRUE(masks.fill(matcher, scratch, words));
    ASSERT_TRUE(matcher.push(static_cast<uint8_t>(c)));
    matcher.settle();
  }
  EXPECT_LE(masks.memory_bytes(), 20'000U);
  EXPECT_GT(masks.memory_bytes(), 0U);
}

TEST(Matcher, ForgetsWhatItCannotReturnTo) {
  const Automata automaton = checked(try_schema(R"({"type":"array","items":{"type":"integer"}})"));
  Matcher matcher(*automaton);
  ASSERT_TRUE(matcher.push('['));
  for (int i = 0; i < 200'000; ++i) {
    ASSERT_TRUE(matcher.push_all("7,"));
    matcher.settle();
  }
  EXPECT_LT(matcher.node_count(), 10'000U);
  ASSERT_TRUE(matcher.push_all("8]"));
  EXPECT_TRUE(matcher.complete());
}

TEST(Matcher, PopsToWhereItWas) {
  for (const auto& [name, automaton] : grammars()) {
    Matcher matcher(*automaton);
    const std::vector<Matcher::Config> before(matcher.configs().begin(), matcher.configs().end());
    for (const char* text : {"{\"a\":", "[1,2", "12,3", "aab", "\"abc"}) {
      (void)matcher.push_all(text);
      matcher.pop_to(0);
      ASSERT_THAT(matcher.configs(), testing::ElementsAreArray(before)) << name;
    }
  }
}

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Words of two to five letters, each with and without a space before it.
std::shared_ptr<const Vocabulary> word_vocabulary(size_t size) {
  std::mt19937 random(7);
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  while (tokens.size() < size) {
    std::string token(random() % 2, ' ');
    for (size_t length = 2 + random() % 4; length > 0; --length)
      token += static_cast<char>('a' + random() % 26);
    tokens.push_back(std::move(token));
  }
  return std::make_shared<const Vocabulary>(std::move(tokens));
}

// Masks along the text, byte by byte; how many there were before the grammar was too ambiguous.
size_t masks_before_the_end(const char* grammar, const Vocabulary& vocabulary, MaskCache& masks,
                            size_t length, double& worst) {
  Matcher matcher(*masks.automaton());
  Matcher scratch(*masks.automaton());
  std::vector<uint64_t> words(mask_words(vocabulary.size()));
  for (size_t i = 0; i < length; ++i) {
    bool filled = false;
    worst = std::max(worst, seconds([&] { filled = masks.fill(matcher, scratch, words); }));
    if (!filled) {
      for (const uint64_t word : words) EXPECT_EQ(word, 0U) << grammar;  // none, not some
      return i;
    }
    if (!matcher.push_all("a")) {
      EXPECT_TRUE(matcher.exhausted()) << grammar;
      return i;
    }
    matcher.settle();
    EXPECT_LT(matcher.node_count(), size_t{1} << 21);
  }
  return length;
}

TEST(Limits, AmbiguousGrammarsEndInTime) {
  for (const size_t size : {size_t{4096}, size_t{154'880}}) {
    const auto vocabulary = word_vocabulary(size);
    for (const auto& [grammar, at_least] : std::vector<std::pair<const char*, size_t>>{
             {"root ::= s\ns ::= p | q | \"\"\np ::= [a-z] s [a-z]\nq ::= s s", 0},
             {"root ::= s\ns ::= s s s | s s | [a-z]", 0},
             {"root ::= pair | [a-z ]\npair ::= root root", 0}}) {
      MaskCache masks(checked(try_gbnf(grammar)), vocabulary);
      double worst = 0;
      const size_t made = masks_before_the_end(grammar, *vocabulary, masks, 400, worst);
      EXPECT_GE(made, size == 4096 ? at_least : 0) << grammar << " at " << size;
      EXPECT_LT(worst, 5) << grammar;
      if (::getenv("LONGSHORE_SUITE_TABLE") != nullptr)
        std::printf("%zu tokens: %zu masks, at most %.1f ms: %s\n", size, made, worst * 1e3,
                    grammar);
    }
  }
}

// What joins itself directly, as lists and operators are often written, has no many readings.
TEST(Limits, RulesThatJoinThemselvesAreRows) {
  const auto vocabulary = word_vocabulary(154'880);
  for (const char* grammar :
       {"root ::= root root | [a-z ]", "root ::= root \"+\"? root | \"(\" root \")\" | [a-z ]"}) {
    MaskCache masks(checked(try_gbnf(grammar)), vocabulary);
    double worst = 0;
    EXPECT_EQ(masks_before_the_end(grammar, *vocabulary, masks, 400, worst), 400U) << grammar;
  }
}

// The bounds leave room for a busy machine; what they catch grows without end.
TEST(Limits, LargeSchemasEndInTime) {
  std::string values;
  std::string options;
  std::string properties;
  std::string names;
  for (int i = 0; i < 10'000; ++i) {
    const char* comma = i == 0 ? "" : ",";
    values += fmt::format(R"({}"value number {}")", comma, i * 7919);
    options += fmt::format(
        R"({}{{"properties":{{"k":{{"const":"o{}"}},"v{}":{{"type":"integer"}}}},"required":["k"],"additionalProperties":false}})",
        comma, i, i);
    properties += fmt::format(
        R"({}"property_with_a_long_name_to_make_it_large_{}":{{"type":"string","description":"filler filler"}})",
        comma, i);
    names += fmt::format(R"({}"property_with_a_long_name_to_make_it_large_{}")", comma, i);
  }
  const auto refused = try_schema(R"({"type":"object","properties":{)" + properties + "}}");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("more than 500 optional properties in a row"));
  const auto vocabulary = small_vocabulary();
  for (const auto& [schema, text] : std::vector<std::pair<std::string, std::string>>{
           {R"({"enum":[)" + values + "]}", R"("value number 79190")"},
           {R"({"type":"object","anyOf":[)" + options + "]}", R"({"k":"o77","v77":5})"},
           {R"({"type":"object","properties":{)" + properties + R"(},"required":[)" + names +
                R"(],"additionalProperties":false})",
            R"({"property_with_a_long_name_to_make_it_large_0":"x","property_with_a_lo)"}}) {
    Automata automaton;
    const double compile = seconds([&] { automaton = checked(try_schema(schema)); });
    EXPECT_LT(compile, 60) << schema.size();
    EXPECT_TRUE(Matcher(*automaton).push_all(text));
    EXPECT_LT(automaton->memory_bytes(), size_t{256} << 20);
    MaskCache masks(automaton, vocabulary);
    Matcher matcher(*automaton);
    Matcher scratch(*automaton);
    std::vector<uint64_t> words(mask_words(vocabulary->size()));
    const double masking = seconds([&] {
      for (const char c : text) {
        ASSERT_TRUE(masks.fill(matcher, scratch, words));
        ASSERT_TRUE(matcher.push(static_cast<uint8_t>(c)));
        matcher.settle();
      }
    });
    EXPECT_LT(masking, 60);
    if (::getenv("LONGSHORE_SUITE_TABLE") != nullptr) {
      std::printf("%zu bytes: compiled in %.2f s to %zu states, %zu masks in %.3f s\n",
                  schema.size(), compile, automaton->state_count(), text.size(), masking);
    }
  }
}

TEST(Limits, LiteralsMeetEverySchemaOnce) {
  const auto made = try_schema(R"({"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"},
      {"$ref":"#/$defs/b"}]},"b":{"allOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}},
      "allOf":[{"$ref":"#/$defs/a"}],"enum":[1]})");
  EXPECT_TRUE(takes(checked(made), "1"));
  // What was found good while its own end was open is looked at again.
  const Automata open = checked(try_schema(R"({"enum":[1,"x"],"$defs":{
      "a":{"allOf":[{"$ref":"#/$defs/b"},{"type":"string"}]},"b":{"$ref":"#/$defs/a"}},
      "items":{},"allOf":[{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]}]})"));
  EXPECT_TRUE(takes(open, "\"x\""));
  EXPECT_FALSE(takes(open, "1"));
  const Automata inner = checked(try_schema(R"({"enum":[[1],["x"]],"$defs":{
      "a":{"allOf":[{"$ref":"#/$defs/b"},{"type":"string"}]},"b":{"$ref":"#/$defs/a"}},
      "items":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}]}})"));
  EXPECT_TRUE(takes(inner, "[\"x\"]"));
  EXPECT_FALSE(takes(inner, "[1]"));
  // Equal whatever the form: numbers, order of properties.
  EXPECT_TRUE(takes(
      checked(
          try_schema(R"({"enum":[{"a":1,"b":[2]},3],"allOf":[{"enum":[{"b":[2.0],"a":1.0}]}]})")),
      R"({"a":1,"b":[2]})"));
}

TEST(Limits, LargeIntersectionsEndInTime) {
  std::string values;
  for (int i = 0; i < 40'000; ++i) values += fmt::format("{}\"v{}\"", i == 0 ? "" : ",", i);
  std::string rules = "root ::= r0\n";
  for (int i = 0; i < 20'000; ++i)
    rules += fmt::format("r{} ::= \"a\" r{} | r{}\n", i, i + 1, i + 1);
  rules += "r20000 ::= \"b\"\n";
  std::string anchors;
  std::string references;
  for (int i = 0; i < 4000; ++i) {
    anchors += fmt::format(R"({}"d{}":{{"$anchor":"n{}"}})", i == 0 ? "" : ",", i, i);
    references += fmt::format(R"({}{{"$ref":"#n{}"}})", i == 0 ? "" : ",", i);
  }
  const double spent = seconds([&] {
    EXPECT_TRUE(try_schema(R"({"enum":[)" + values + R"(],"allOf":[{"enum":[)" + values + "]}]}"));
    EXPECT_TRUE(try_gbnf(rules));
    EXPECT_TRUE(try_schema(R"({"$defs":{)" + anchors + R"(},"anyOf":[)" + references + "]}"));
  });
  EXPECT_LT(spent, 5);
  if (::getenv("LONGSHORE_SUITE_TABLE") != nullptr) std::printf("intersections: %.2f s\n", spent);
}

// allOf of one-property objects beside two anyOf: their product, in schemas and in properties.
TEST(Limits, ProductsAreRefused) {
  const auto product = [](int objects, int options) {
    std::string all;
    for (int i = 0; i < objects; ++i)
      all += fmt::format(R"({{"properties":{{"p{}":{{"type":"integer"}}}}}},)", i);
    std::string any;
    for (int i = 0; i < options; ++i)
      any += fmt::format(R"({}{{"minProperties":0,"title":"{}"}})", i == 0 ? "" : ",", i);
    return R"({"type":"object","allOf":[)" + all + R"({"anyOf":[)" + any + R"(]},{"anyOf":[)" +
           any + "]}]}";
  };
  EXPECT_TRUE(try_schema(product(20, 5)));
  for (const auto& [schema, words] : std::vector<std::pair<std::string, std::string>>{
           {product(480, 300), "#: anyOf and oneOf make ways of more than 1000000 schemas"},
           {product(100, 80), "#: properties, required, additionalProperties"}}) {
    const auto made = try_schema(schema);
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().message, HasSubstr(words));
  }
}

TEST(Limits, DepthIsKnownBeforeParsing) {
  EXPECT_FALSE(nests_deeper(std::string(256, '[') + std::string(256, ']'), 256));
  EXPECT_TRUE(nests_deeper(std::string(257, '['), 256));
  EXPECT_TRUE(nests_deeper(R"({"a":[{}]})", 2));
  EXPECT_FALSE(nests_deeper(R"({"[[[\"[[{":"]]{{"})", 1));
}

TEST(Limits, AreNamed) {
  const auto nested = [](int depth) {
    std::string schema = "{}";
    for (int i = 0; i < depth; ++i) schema = R"({"items":)" + schema + "}";
    return schema;
  };
  EXPECT_TRUE(try_schema(nested(64)));
  std::string ways;
  for (int i = 0; i < 20; ++i)
    ways += fmt::format(R"({}{{"anyOf":[{{"minimum":{}}},{{"maximum":{}}}]}})", i == 0 ? "" : ",",
                        i, i);
  std::string bases;
  for (int i = 0; i < 3000; ++i)
    bases += fmt::format(R"({}{{"minimum":{}}})", i == 0 ? "" : ",", i);
  for (
      const auto& [schema, words] : std::vector<std::pair<std::string, std::string>>{
          {nested(66), "deeper than 64"},
          {R"({"properties":{"a":{"pattern":"^(.*a.{24})$"}}})", "#/properties/a: pattern"},
          {R"({"maxItems":9999999,"items":{"enum":[1]}})", "maxItems above"},
          {R"({"type":"string","pattern":"a.*b.*c","maxLength":900000})", "states"},
          {R"({"allOf":[)" + ways + "]}", "ways"},
          {R"({"allOf":[)" + bases + "]}", "hold at once"},
          {R"({"properties":{"a":{"not":{}}}})", "#/properties/a: not is not supported"},
          {R"({"items":[{}]})", "prefixItems"},
          {R"({"$defs":{"x":{"$ref":"#/nowhere"}}})",
           "#/$defs/x: $ref \"#/nowhere\" points nowhere"},
          {R"({"type":"object","required":["a"],"additionalProperties":false})",
           "#: no text at all"},
          {R"({"type":"object","required":["a"],"properties":{"b":true,"a":{"type":"array","minItems":1,
             "items":{"type":"integer","minimum":5,"maximum":3}}}})",
           "#/properties/a/items: no text at all"},
          {R"({"properties":{"a":{"allOf":[{"type":"string"},{"type":"integer"}]}},"required":["a"]
             ,"type":"object"})",
           "#/properties/a: no text at all"},
          {R"({"properties":{"a/b~":{"not":{}}}})", "#/properties/a~1b~0: not is not supported"},
          {R"({"type":"strin"})", "type \"strin\" is not known"},
          {R"({"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"b":{"$ref":"#/$defs/a"}},"required":["b"]}}})",
           "no text at all"}}) {
    const auto made = try_schema(schema);
    ASSERT_FALSE(made) << schema.substr(0, 100);
    EXPECT_THAT(made.error().message, HasSubstr(words)) << schema.substr(0, 100);
  }
}

}  // namespace
}  // namespace longshore::text
