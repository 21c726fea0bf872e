// Bad input ends in exactly one line on stderr that names what is wrong, and in the exit code of
// its kind.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace longshore {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

const std::string kNano = std::string(LONGSHORE_SOURCE_DIR) + "/models/glm-nano";
constexpr int kUsage = 2;
constexpr int kModel = 3;

void expect_refusal(const Finished& run, int code, const std::string& named) {
  EXPECT_EQ(run.exit_code, code) << run.err;
  EXPECT_THAT(run.err, HasSubstr(named));
  EXPECT_THAT(run.err, testing::StartsWith("longshore: "));
  EXPECT_THAT(run.err, testing::EndsWith("\n"));
  EXPECT_EQ(lines_of(run.err).size(), 1U) << run.err;
}

// glm-nano of links, of which a test replaces what it breaks.
struct BrokenModel {
  BrokenModel() {
    for (const auto& entry : std::filesystem::directory_iterator(kNano)) {
      std::filesystem::create_symlink(entry.path(), dir.file(entry.path().filename().string()));
    }
  }
  void replace(const std::string& name, const std::string& content) const {
    std::filesystem::remove(dir.file(name));
    write_file(dir.file(name), content);
  }
  [[nodiscard]] Finished generate() const {
    return longshore({"generate", dir.path(), "--file", "-", "--max-tokens", "2"},
                     "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n");
  }
  TemporaryDirectory dir;
};

TEST(Usage, FlagsAndArgumentsAreRefusedByName) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "subcommand"},
      {{"nonsense"}, "nonsense"},
      {{"generate", kNano, "-p", "x", "--nonsense"}, "--nonsense"},
      {{"generate", "-p", "x"}, "MODEL"},
      {{"tokenize"}, "MODEL"},
      {{"render"}, "MODEL"},
      {{"inspect"}, "MODEL"},
      {{"chat"}, "MODEL"},
      {{"logits", kNano, "--ids", "-"}, "--out"},
      {{"generate", kNano}, "-p TEXT"},
      {{"generate", kNano, "-p", "x", "--device", "cuda"}, "--device cuda"},
      {{"generate", kNano, "-p", "x", "--cpu-isa", "nonsense"}, "nonsense"},
      {{"generate", kNano, "-p", "x", "--precision", "fp4"}, "--precision fp4"},
      {{"generate", kNano, "-p", "x", "--threads", "many"}, "--threads"},
      {{"generate", kNano, "-p", "x", "--top-p", "0"}, "top_p is 0"},
      {{"generate", kNano, "-p", "x", "--context-length", "9000"}, "--context-length 9000"},
      {{"generate", kNano, "-p", "one two three four", "--context-length", "3"},
       "--context-length"},
      {{"generate", kNano, "-p", "a\xff"}, "-p: "},
      {{"generate", kNano, "-p", "x", "--stop", "\xa9"}, "stop: "},
      {{"generate", kNano, "--file", "/nonexistent.jsonl"}, "/nonexistent.jsonl"},
      {{"generate", kNano, "--file", "/"}, "/: cannot read it"},
      {{"eval", kNano, "/nonexistent.jsonl"}, "/nonexistent.jsonl"},
      {{"bench", "nonsense", kNano}, "nonsense"}};
  for (const auto& [arguments, named] : cases) expect_refusal(longshore(arguments), kUsage, named);
}

TEST(Usage, LinesOfInputAreRefusedByNumber) {
  expect_refusal(longshore({"tokenize", kNano}, "\"ok\"\n\"a\xff\"\n"), kUsage, "line 2");
  expect_refusal(longshore({"tokenize", kNano}, "[1]\n"), kUsage, "line 1");
  expect_refusal(longshore({"tokenize", kNano, "--decode"}, "[1, 4294967297]\n"), kUsage,
                 "4294967297");
  expect_refusal(longshore({"render", kNano}, "{\"messages\": 1}\n"), kUsage, "line 1: messages");
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, "{\"prompt\": \"a\xff\"}\n"), kUsage,
                 "-: line 1");
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, "{\"prompt\": 1}\n"), kUsage,
                 "prompt");
}

TEST(Usage, IdsOutsideTheVocabularyAreRefusedByValue) {
  const TemporaryDirectory dir;
  for (const std::string id : {"4096", "-1", "4294967297", "18446744073709551615", "1.5"}) {
    expect_refusal(
        longshore({"logits", kNano, "--ids", "-", "--out", dir.file("o")}, "[1, " + id + "]"),
        kUsage, id);
  }
  expect_refusal(longshore({"logits", kNano, "--ids", "-", "--out", dir.file("o")}, "{}"), kUsage,
                 "-: ");
}

TEST(Model, AMissingDirectoryIsNamedByEveryCommand) {
  const std::string none = "/nonexistent-model";
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"generate", none, "-p", "x"},
                                             {"chat", none},
                                             {"inspect", none},
                                             {"tokenize", none},
                                             {"render", none}}) {
    expect_refusal(longshore(arguments), kModel, none);
  }
}

TEST(Model, ATruncatedShardIsNamed) {
  const BrokenModel model;
  const std::string name = "model-00003-of-00003.safetensors";
  model.replace(name, read_file(kNano + "/" + name).substr(0, 2000000));
  expect_refusal(model.generate(), kModel, name);
  expect_refusal(longshore({"inspect", model.dir.path()}), kModel, name);
}

TEST(Model, AnUnsupportedConfigValueIsNamed) {
  const BrokenModel model;
  auto config = ordered_json::parse(read_file(kNano + "/config.json"));
  config["hidden_act"] = "gelu";
  model.replace("config.json", config.dump());
  expect_refusal(model.generate(), kModel, "hidden_act");
}

TEST(Model, ABrokenMergeOfTheTokenizerIsNamed) {
  const BrokenModel model;
  auto tokenizer = ordered_json::parse(read_file(kNano + "/tokenizer.json"));
  tokenizer["model"]["merges"][5] = ordered_json::array({"not in the vocabulary", "x"});
  model.replace("tokenizer.json", tokenizer.dump());
  expect_refusal(model.generate(), kModel, "tokenizer.json");
}

TEST(Model, TemplatesThatRaiseOrNeverEndOrDoNotParseAreRefused) {
  const BrokenModel model;
  model.replace("chat_template.jinja", "{{ raise_exception('roles must alternate') }}");
  expect_refusal(model.generate(), kUsage, "roles must alternate");
  const std::string loop =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor "
      "%}";
  model.replace("chat_template.jinja", loop);
  expect_refusal(model.generate(), kModel, "chat_template.jinja");
  model.replace("chat_template.jinja", "{% if %}");
  expect_refusal(model.generate(), kModel, "chat_template.jinja");
}

TEST(Output, AFullDiskIsAnErrorNotACrash) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"inspect", kNano, "--tensors"},
           {"generate", kNano, "-p", "x", "--max-tokens", "2", "--json"}}) {
    expect_refusal(longshore(arguments, "", -1, "/dev/full"), 1, "write");
  }
  expect_refusal(longshore({"tokenize", kNano}, "\"x\"\n", -1, "/dev/full"), 1, "standard output");
}

TEST(Interrupt, EndsALongGenerationWith130AndOneLine) {
  const Finished run = longshore({"generate", kNano, "-p", "Hello", "--ignore-eos"}, "", 700);
  expect_refusal(run, 130, "stopped");
}

TEST(Interrupt, EndsACommandThatWaitsForInput) {
  for (const std::string command : {"tokenize", "render", "chat"}) {
    expect_refusal(longshore({command, kNano}, "", 400), 130, "stopped");
  }
}

}  // namespace
}  // namespace longshore
