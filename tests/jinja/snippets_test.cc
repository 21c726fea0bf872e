// The interpreter against jinja2 itself: tests/data/goldens/jinja-snippets.jsonl
// (tools/make_jinja_goldens.py).
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/paths.h"
#include "text/jinja/template.h"

namespace longshore::text::jinja {
namespace {

using Json = nlohmann::ordered_json;

std::vector<Json> read_lines(const std::string& name) {
  std::ifstream in(longshore::source_dir() + "/tests/data/goldens/" + name);
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(Jinja, GivesTheTextOfJinja2OnEverySnippet) {
  const std::vector<Json> snippets = read_lines("jinja-snippets.jsonl");
  ASSERT_GE(snippets.size(), 300U);
  for (const Json& snippet : snippets) {
    const auto source = snippet["template"].get<std::string>();
    SCOPED_TRACE(source);
    auto compiled = Template::compile(source, "snippet");
    auto text = compiled ? compiled->render(snippet["variables"], Json::object())
                         : Result<std::string>(tl::unexpected(compiled.error()));
    if (snippet.contains("error")) {
      EXPECT_FALSE(text) << "jinja2 refuses this, but it gave: " << *text;
    } else if (!text) {
      ADD_FAILURE() << text.error().message << "\nexpected: " << snippet["output"];
    } else {
      EXPECT_EQ(*text, snippet["output"].get<std::string>());
    }
  }
}

TEST(ChatTemplate, GlmNanoGivesTheTextOfTransformersOnEveryVector) {
  std::ifstream in(longshore::source_dir() + "/models/glm-nano/chat_template.jinja");
  const std::string source((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  auto compiled = Template::compile(source, "chat_template.jinja");
  ASSERT_TRUE(compiled) << compiled.error().message;
  const std::vector<Json> vectors = read_lines("chat-template-public.jsonl");
  ASSERT_EQ(vectors.size(), 20U);
  for (const Json& vector : vectors) {
    Json variables = vector["kwargs"];
    variables["messages"] = vector["messages"];
    if (vector.contains("tools")) variables["tools"] = vector["tools"];
    const auto text = compiled->render(variables, Json{{"tools", nullptr}});
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_EQ(*text, vector["text"].get<std::string>());
  }
}

}  // namespace
}  // namespace longshore::text::jinja
