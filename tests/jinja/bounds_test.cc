// No template crashes, hangs or grows without end: each ends in one clear error.
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/jinja/template.h"

namespace longshore::text::jinja {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Result<std::string> render(const std::string& source, const Json& variables = Json::object(),
                           const Limits& limits = {}) {
  LS_TRY(const Template compiled, Template::compile(source, "t.jinja"));
  return compiled.render(variables, Json::object(), limits);
}

std::string error_of(const std::string& source, const Json& variables = Json::object()) {
  const auto text = render(source, variables);
  return text ? "no error" : text.error().message;
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(JinjaBounds, LoopsEndAtTheStepLimit) {
  EXPECT_THAT(
      error_of("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"),
      HasSubstr("steps"));
}

TEST(JinjaBounds, RecursionEndsAtTheDepthLimit) {
  EXPECT_THAT(error_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
              HasSubstr("nests deeper"));
  EXPECT_THAT(error_of("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
              HasSubstr("nests deeper"));
  const std::string nest = repeated("{% if true %}", 90);
  EXPECT_THAT(error_of("{% macro m() %}" + nest + "{{ m() }}" + repeated("{% endif %}", 90) +
                       "{% endmacro %}{{ m() }}"),
              HasSubstr("nests deeper"));
}

TEST(JinjaBounds, TextEndsAtTheSizeLimit) {
  for (const char* source : {
           "{{ 'x' * 1000000000000 }}",
           "{{ 'ab' * 9223372036854775807 }}",
           "{{ [1] * 9000000000000000000 }}",
           "{{ 'x'|center(1000000000000) }}",
           "{{ 'x'.rjust(1000000000000) }}",
           "{{ 'a'|indent(9000000000000000000, true) }}",
           "{{ '%1000000000d' % 5 }}",
           "{{ '%99999999999999999999d' % 5 }}",
           "{{ '{:>1000000000}'.format(5) }}",
           "{{ [1, [2]]|tojson(indent=1000000000) }}",
           "{{ [1]|batch(1000000000000, 'x')|list }}",
           "{{ [1]|slice(1000000000000)|list }}",
           "{{ '5'.zfill(1000000000000) }}",
           "{% set a = 'x' * 60000000 %}{{ a }}{{ a }}",
           "{% set a = 'x' * 1000000 %}{{ a.replace('', a) }}",
           "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% "
           "endfor %}",
           "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% "
           "endfor %}",
           "{% set n = namespace(s=['x']) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% "
           "endfor %}{{ n.s }}",
           "{% set n = namespace(s=['x']) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% "
           "endfor %}{{ n.s|tojson }}",
       }) {
    EXPECT_NE(error_of(source), "no error") << source;
  }
}

TEST(JinjaBounds, ComparisonsOfSharedTowersEnd) {
  const std::string towers =
      "{% set a = namespace(s=['x']) %}{% set b = namespace(s=['x']) %}{% for i in range(99) %}"
      "{% set a.s = [a.s, a.s] %}{% set b.s = [b.s, b.s] %}{% endfor %}";
  EXPECT_THAT(error_of(towers + "{{ a.s == b.s }}"), HasSubstr("steps"));
  EXPECT_THAT(error_of(towers + "{{ a.s < b.s }}"), HasSubstr("steps"));
}

TEST(JinjaBounds, NestedValuesEndAtTheirDepthLimit) {
  EXPECT_THAT(error_of("{% set n = namespace(s=[]) %}{% for i in range(9999) %}{% set n.s = [n.s] "
                       "%}{% endfor %}"),
              HasSubstr("nested deeper"));
  EXPECT_THAT(error_of("{% set n = namespace(s={}) %}{% for i in range(9999) %}{% set n.s = {1: "
                       "n.s} %}{% endfor %}"),
              HasSubstr("nested deeper"));
  Json deep = Json::array();
  for (int i = 0; i < 5000; ++i) deep = Json::array({std::move(deep)});
  EXPECT_THAT(error_of("{{ x }}", Json{{"x", std::move(deep)}}), HasSubstr("nested deeper"));
}

TEST(JinjaBounds, ValuesThatReferToThemselvesAreFreed) {
  EXPECT_TRUE(render("{% set n = namespace() %}{% set n.self = [n] %}{{ n.self is defined }}"));
  EXPECT_TRUE(render("{% macro m() %}{% endmacro %}{% set n = namespace(m=m) %}"));
  EXPECT_TRUE(
      render("{% set n = namespace() %}{% for i in [n] %}{% set n.l = loop %}{% endfor %}"));
  EXPECT_TRUE(
      render("{% set n = namespace() %}{% for i in range(9999) %}{% set n.p = namespace(p=n.p) "
             "%}{% endfor %}"));
  EXPECT_TRUE(render("{% for i in [1] %}{% if loop.changed(loop) %}{% endif %}{% endfor %}"));
}

TEST(JinjaBounds, DeepSyntaxIsRefused) {
  for (const auto& [open, close] : std::vector<std::pair<std::string, std::string>>{{"(", ")"},
                                                                                    {"[", "]"},
                                                                                    {"not ", ""},
                                                                                    {"- ", ""},
                                                                                    {"{1:", "}"},
                                                                                    {"x(", ")"},
                                                                                    {"x[", "]"}}) {
    EXPECT_THAT(error_of("{{ " + repeated(open, 9999) + "1" + repeated(close, 9999) + " }}"),
                HasSubstr("deep"))
        << open;
  }
  for (const char* chain :
       {" + 1", " ~ 1 + 1", "|upper", ".a", "[0]", "()", " and 1", " if 1 else 1", " ** 2"}) {
    const std::string text = "{{ 1" + repeated(chain, 99999) + " }}";
    EXPECT_NE(error_of(text), "no error") << chain;
  }
  EXPECT_THAT(error_of(repeated("{% if 1 %}", 9999)), HasSubstr("deep"));
  EXPECT_THAT(error_of("{% set " + repeated("(", 9999) + repeated(")", 9999) + " = 1 %}"),
              HasSubstr("deep"));
}

TEST(JinjaBounds, SearchesForLongTextsAreLinearOrCharged) {
  const std::string texts = "{% set a = 'a' * 6000000 %}{% set b = 'a' * 3000000 + 'b' %}";
  EXPECT_TRUE(render(texts + "{{ b in a }}{{ a.find(b) }}{{ a.count(b) }}"));
  EXPECT_NE(error_of(texts + "{{ a.rfind(b) }}"), "no error");
}

TEST(JinjaErrors, IntegersThatDoNotFitAreErrors) {
  for (const char* source :
       {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}",
        "{{ 9223372036854775807 * 2 }}", "{{ 2 ** 64 }}", "{{ '99999999999999999999'|int }}",
        "{{ 1e300|int }}", "{{ 99999999999999999999 }}"}) {
    EXPECT_THAT(error_of(source), HasSubstr("64 bits")) << source;
  }
  EXPECT_EQ(*render("{{ x }}", Json{{"x", 18446744073709551615U}}), "18446744073709551615");
}

TEST(JinjaErrors, NameTheFileTheLineAndTheReason) {
  EXPECT_EQ(error_of("a\n{{ x.y.z }}"), "t.jinja:2: 'x' is undefined");
  EXPECT_EQ(error_of("{{ {}.y.z }}"), "t.jinja:1: 'dict object' has no attribute 'y'");
  EXPECT_EQ(error_of("{% macro m() %}\n\n{{ 1 + 'a' }}{% endmacro %}\n{{ m() }}"),
            "t.jinja:3: unsupported operand type(s) for +: 'int' and 'str'");
  EXPECT_EQ(error_of("\n\n{% nope %}"), "t.jinja:3: unknown tag 'nope'");
  EXPECT_EQ(error_of("{% include 'x' %}"),
            "t.jinja:1: 'include' is not supported in a chat template");
  EXPECT_EQ(error_of("{% if x %}"),
            "t.jinja:1: the template ends inside of this block: 'endif' is missing");
  EXPECT_EQ(error_of("{{ 'x'|nope }}"), "t.jinja:1: no filter named 'nope'");
}

TEST(JinjaErrors, RaiseExceptionGivesItsOwnMessageAsUsage) {
  for (const char* source :
       {"{{ raise_exception('bad roles') }}",
        "{% macro m() %}{{ raise_exception('bad roles') }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ raise_exception('bad roles') "
        "}}{% endcall %}"}) {
    const auto text = render(source);
    ASSERT_FALSE(text);
    EXPECT_EQ(text.error().kind, ErrorKind::kUsage);
    EXPECT_EQ(text.error().message, "bad roles");
  }
}

TEST(Jinja, RendersOnManyThreadsAtOnce) {
  const auto compiled = Template::compile(
      "{% for m in messages %}{{ m ~ ['x', 1] }}{{ 'é'|upper }}{% endfor %}", "t");
  ASSERT_TRUE(compiled);
  const Json variables{{"messages", Json::array({"a", "b"})}};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) {
        EXPECT_EQ(*compiled->render(variables, Json::object()), "a['x', 1]Éb['x', 1]É");
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace longshore::text::jinja
