// Bad input ends in exactly one line on stderr that names what is wrong, and in the exit code of
// its kind.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include "base/tensor.h"
#include "checkpoint/safetensors.h"
#include "tests/cli/process.h"
#include "tests/paths.h"

namespace longshore {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

const std::string kNano = longshore::source_dir() + "/models/glm-nano";
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
      {{"generate", kNano, "-p", ""}, "-p: the prompt is empty"},
      {{"generate", kNano, "-p", "x", "--file", "-"}, "-p TEXT"},
      {{"bench", "decode", "--synthetic", "nonsense"}, "synthetic model 'nonsense'"},
      {{"bench", "decode", kNano, "--context", "999999"}, "--context 999999"},
      {{"generate", kNano, "-p", "x", "--device", "gpu"}, "--device gpu"},
      {{"generate", kNano, "-p", "x", "--cpu-isa", "nonsense"}, "nonsense"},
      {{"generate", kNano, "-p", "x", "--precision", "fp4"}, "--precision fp4"},
      {{"generate", kNano, "-p", "x", "--kv-cache-dtype", "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2"},
      {{"plan", kNano, "--kv-cache-dtype", "fp4_e2m1"}, "--kv-cache-dtype fp4_e2m1"},
      {{"bench", "decode", kNano, "--kv-cache-dtype", "int4"}, "--kv-cache-dtype int4"},
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
      {{"generate", kNano, "-p", "x", "--seed", "-1"}, "--seed"},
      {{"generate", kNano, "-p", "x", "--seed", "18446744073709551616"}, "--seed"},
      {{"generate", kNano, "-p", "x", "--seed", "1.5"}, "--seed"},
      {{"generate", kNano, "-p", "x", "--logprobs", "2"}, "--logprobs"},
      {{"generate", kNano, "-p", "x", "--json", "--logprobs", "21"}, "--logprobs 21"},
      {{"generate", kNano, "-p", "x", "--json", "--logprobs", "-1"}, "--logprobs -1"},
      {{"generate", kNano, "--file", "/dev/zero"}, "/dev/zero: more than 256 MiB"},
      {{"bench", "nonsense", kNano}, "nonsense"}};
  for (const auto& [arguments, named] : cases) expect_refusal(longshore(arguments), kUsage, named);
}

TEST(Usage, DeepJsonIsRefusedInOneLine) {
  const TemporaryDirectory dir;
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  write_file(dir.file("schema"), R"({"enum":)" + deep + "}");
  const std::string named = "nested more than 256 levels deep";
  expect_refusal(longshore({"generate", kNano, "-p", "x", "--schema", dir.file("schema")}), kUsage,
                 named);
  const std::string line = R"({"prompt":"x","tools":)" + deep + "}\n";
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, line), kUsage, named);
  expect_refusal(longshore({"render", kNano}, line), kUsage, named);
}

TEST(Usage, LinesOfInputAreRefusedByNumber) {
  expect_refusal(longshore({"tokenize", kNano}, "\"ok\"\n\"a\xff\"\n"), kUsage, "line 2");
  expect_refusal(longshore({"tokenize", kNano}, "[1]\n"), kUsage, "line 1");
  expect_refusal(longshore({"tokenize", kNano, "--decode"}, "[1, 4294967297]\n"), kUsage,
                 "4294967297");
  expect_refusal(longshore({"tokenize", kNano, "--decode"}, "[1]\n[2, 4096]\n"), kUsage,
                 "line 2: 4096");
  expect_refusal(longshore({"tokenize", kNano, "--decode"}, "[-1]\n"), kUsage, "line 1: -1");
  expect_refusal(longshore({"render", kNano}, "{\"messages\": 1}\n"), kUsage, "line 1: messages");
  const std::string tools = "{\"messages\": [], \"tools\": {\"type\": \"function\"}}\n";
  expect_refusal(longshore({"render", kNano}, tools), kUsage, "line 1: tools");
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, "{\"prompt\": \"x\"}\n" + tools),
                 kUsage, "-: line 2: tools");
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, "{\"prompt\": \"a\xff\"}\n"), kUsage,
                 "-: line 1");
  expect_refusal(longshore({"generate", kNano, "--file", "-"}, "{\"prompt\": 1}\n"), kUsage,
                 "prompt");
}

TEST(Usage, KeysOfAPromptLineAreRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("temprature": 1)", "line 2: \"temprature\""},
      {R"("temperature": "hot")", "line 2: temperature is not a number"},
      {R"("max_tokens": 1.5)", "line 2: max_tokens is not a whole number"},
      {R"("top_k": 4294967296)", "line 2: top_k"},
      {R"("seed": -1)", "line 2: seed"},
      {R"("logit_bias": {"x": 1})", "line 2: logit_bias"},
      {R"("logit_bias": {"4096": 1})", "line 2: logit_bias"},
      {R"("presence_penalty": 3)", "line 2: presence_penalty"},
      {R"("stop": [""])", "line 2: stop"},
      {R"("top_p": 0)", "line 2: top_p is 0"}};
  for (const auto& [key, named] : cases) {
    expect_refusal(
        longshore({"generate", kNano, "--file", "-", "--max-tokens", "1", "-o", "/dev/null"},
                  "{\"prompt\": \"x\"}\n{\"prompt\": \"x\", " + key + "}\n"),
        kUsage, named);
  }
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

// The model with NaN for every weight of one token's embedding.
void break_embedding(const BrokenModel& model, int64_t token) {
  for (const auto& entry : std::filesystem::directory_iterator(kNano)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = read_file(entry.path());
    const auto tensors = parse_safetensors(std::as_bytes(std::span(bytes)),
                                           static_cast<int64_t>(bytes.size()), "shard");
    ASSERT_TRUE(tensors);
    for (const SafetensorsEntry& tensor : *tensors) {
      if (tensor.name != "model.embed_tokens.weight") continue;
      const int64_t row = tensor.shape[1] * dtype_size(tensor.dtype);
      // All bits set: NaN in every floating-point format.
      std::memset(bytes.data() + tensor.begin + token * row, 0xFF, static_cast<size_t>(row));
      model.replace(entry.path().filename(), bytes);
    }
  }
}

TEST(Model, NaNInAWeightEndsInAnErrorNotInLogits) {
  const BrokenModel model;
  break_embedding(model, 1738);
  const std::vector<std::string> arguments = {"logits", model.dir.path(), "--ids",
                                              "-",      "--out",          model.dir.file("out")};
  EXPECT_EQ(longshore(arguments, "[4075, 4077]").exit_code, 0) << "the token is not touched";
  std::filesystem::remove(model.dir.file("out"));
  const Finished run = longshore(arguments, "[4075, 4077, 1738]");
  expect_refusal(run, kModel, model.dir.path());
  EXPECT_THAT(run.err, HasSubstr("longshore inspect"));
  EXPECT_THAT(run.err, HasSubstr("position 2"));
  EXPECT_FALSE(std::filesystem::exists(model.dir.file("out")));
}

TEST(Model, AStopIdOutsideTheVocabularyNamesFileAndKey) {
  const BrokenModel model;
  for (const std::string id : {"4096", "[0, -1]", "4294967296", "18446744073709551615"}) {
    model.replace("generation_config.json", "{\"eos_token_id\": " + id + "}");
    const Finished run = model.generate();
    expect_refusal(run, kModel, "generation_config.json: eos_token_id");
  }
}

TEST(Model, AStopIdThatIsNoTokenIsNamed) {
  const BrokenModel model;
  auto tokenizer = ordered_json::parse(read_file(kNano + "/tokenizer.json"));
  auto& added = tokenizer["added_tokens"];
  const auto last = added.back()["id"].get<int64_t>();
  added.erase(added.size() - 1);
  model.replace("tokenizer.json", tokenizer.dump());
  model.replace("generation_config.json", fmt::format("{{\"eos_token_id\": {}}}", last));
  expect_refusal(model.generate(), kModel, fmt::format("eos_token_id {}", last));
}

TEST(Model, AConfigThatIsNoFileIsNamedWithARemedy) {
  const BrokenModel model;
  std::filesystem::remove(model.dir.file("config.json"));
  expect_refusal(longshore({"inspect", model.dir.path()}), kModel, "check the path");
  std::filesystem::create_directory(model.dir.file("config.json"));
  expect_refusal(longshore({"inspect", model.dir.path()}), kModel,
                 "config.json: not a regular file; ");
}

TEST(Model, AMissingMtpLayerIsNamedWithTheFlag) {
  const BrokenModel model;
  auto config = ordered_json::parse(read_file(kNano + "/config.json"));
  config["num_nextn_predict_layers"] = 0;
  model.replace("config.json", config.dump());
  expect_refusal(
      longshore({"logits", model.dir.path(), "--ids", "-", "--out", model.dir.file("out"), "--mtp"},
                "[1]"),
      kUsage, "leave out --mtp");
}

TEST(Model, InspectTellsItsProblemsOnStderrToo) {
  const BrokenModel model;
  break_embedding(model, 1738);
  expect_refusal(longshore({"inspect", model.dir.path()}), kModel, "model.embed_tokens.weight");
}

TEST(Model, ATensorThatTheIndexLeavesOutIsAWarning) {
  const BrokenModel model;
  const std::string name = "model.safetensors.index.json";
  auto index = ordered_json::parse(read_file(kNano + "/" + name));
  index["weight_map"].erase("model.norm.weight");
  model.replace(name, index.dump());
  const Finished run = longshore({"inspect", model.dir.path(), "--no-verify"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("warning"));
  EXPECT_THAT(run.err, HasSubstr("tensor model.norm.weight"));
  EXPECT_EQ(lines_of(run.err).size(), 1U) << run.err;
  EXPECT_EQ(longshore({"inspect", kNano, "--no-verify"}).err, "");
}

TEST(Model, ATemplateThatIsNotUtf8IsNamed) {
  const BrokenModel model;
  model.replace("chat_template.jinja", "Hello \xff");
  expect_refusal(model.generate(), kModel, "chat_template.jinja: byte 6");
}

TEST(Model, AMessageOfTheTemplateStaysOneLine) {
  const BrokenModel model;
  model.replace("chat_template.jinja", "{{ raise_exception('one\\ntwo\\x1b[2J') }}");
  expect_refusal(model.generate(), kUsage, "one\\ntwo\\x1b[2J");
}

TEST(Model, AnIndexerThatTheConfigLeavesUnusedIsNamed) {
  const BrokenModel model;
  auto config = ordered_json::parse(read_file(kNano + "/config.json"));
  const auto layers = config["num_hidden_layers"].get<size_t>();
  config["indexer_types"] = std::vector<std::string>(layers, "full");
  config["indexer_types"][1] = "shared";
  config.erase("index_topk_freq");
  config.erase("index_topk_pattern");
  model.replace("config.json", config.dump());
  const Finished run = longshore({"generate", model.dir.path(), "-p", "x", "--max-tokens", "1"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("warning"));
  EXPECT_THAT(run.err, HasSubstr("model.layers.1.self_attn.indexer."));
  EXPECT_THAT(run.err, HasSubstr("indexer_types"));
  EXPECT_EQ(lines_of(run.err).size(), 1U) << run.err;
}

TEST(Model, TemplatesThatRaiseOrNeverEndOrDoNotParseAreRefused) {
  const BrokenModel model;
  model.replace("chat_template.jinja", "{{ raise_exception('roles must alternate') }}");
  expect_refusal(model.generate(), kUsage, "roles must alternate");
  const std::string loop =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor "
      "%}";
  model.replace("chat_template.jinja", loop);
  const Finished endless = model.generate();
  expect_refusal(endless, kModel, "chat_template.jinja");
  EXPECT_THAT(endless.err, HasSubstr("shorten the messages or simplify it"));
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

TEST(Output, AnOutputFileIsThereWholeOrAsItWas) {
  const TemporaryDirectory dir;
  write_file(dir.file("out"), "precious");
  const std::vector<std::string> arguments = {"generate", kNano,           "--file",       "-",
                                              "-o",       dir.file("out"), "--max-tokens", "2"};
  expect_refusal(longshore(arguments, "{\"prompt\": \"x\"}\n{\"prompt\": \"\"}\n"), kUsage,
                 "line 2");
  EXPECT_EQ(read_file(dir.file("out")), "precious");
  EXPECT_EQ(longshore(arguments, "{\"prompt\": \"x\"}\n").exit_code, 0);
  EXPECT_NE(read_file(dir.file("out")), "precious");
  expect_refusal(longshore({"generate", kNano, "-p", "x", "-o", dir.file("none/out")}), 1,
                 "none/out: cannot write");
}

// The first result cannot be written: the long ones behind it are not waited for.
TEST(Output, AFullDiskEndsTheBatchAtOnce) {
  std::string lines = "{\"prompt\": \"x\", \"max_tokens\": 1}\n";
  for (int i = 0; i < 32; ++i) lines += "{\"prompt\": \"x\", \"max_tokens\": 8000}\n";
  const auto begin = std::chrono::steady_clock::now();
  expect_refusal(
      longshore({"generate", kNano, "--file", "-", "-o", "/dev/full", "--ignore-eos"}, lines), 1,
      "/dev/full: cannot write");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

int shell(const std::string& arguments) {
  const std::string command = longshore::binary_dir() + "/longshore " + arguments;
  const int status =
      std::system(command.c_str());  // NOLINT(cert-env33-c): the shell closes descriptors
  return WEXITSTATUS(status);
}

TEST(Output, AClosedStandardDescriptorIsNotTakenByAFile) {
  EXPECT_EQ(shell("inspect " + kNano + " --no-verify >&-"), 0);
  const TemporaryDirectory dir;
  write_file(dir.file("ids"), "[1, 2]");
  for (const std::string closed : {"<&-", ">&-", "2>&-", "<&- >&- 2>&-"}) {
    const std::string out = dir.file("out");
    ASSERT_EQ(
        shell("logits " + kNano + " --ids " + dir.file("ids") + " --out " + out + " " + closed), 0)
        << closed;
    const std::string bytes = read_file(out);
    EXPECT_TRUE(parse_safetensors(std::as_bytes(std::span(bytes)),
                                  static_cast<int64_t>(bytes.size()), "out"))
        << closed;
  }
}

TEST(Usage, ALineWithoutEndIsRefused) {
  const TemporaryDirectory dir;
  EXPECT_EQ(shell("render " + kNano + " < /dev/zero 2> " + dir.file("err")), kUsage);
  EXPECT_THAT(read_file(dir.file("err")), HasSubstr("standard input: a line of more than 256 MiB"));
}

TEST(Output, LogitsGoToStandardOutputWhenItIsNamed) {
  const TemporaryDirectory dir;
  write_file(dir.file("ids"), "[1, 2]");
  const Finished run =
      longshore({"logits", kNano, "--ids", dir.file("ids"), "--out", "/dev/stdout", "--last", "1"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(parse_safetensors(std::as_bytes(std::span(run.out)),
                                static_cast<int64_t>(run.out.size()), "out"));
}

TEST(Output, ARecordingThatCannotBeWrittenIsAnError) {
  expect_refusal(longshore({"generate", kNano, "-p", "x", "--max-tokens", "2", "-o", "/dev/null",
                            "--record-routing", "/dev/full"}),
                 1, "/dev/full");
}

TEST(Interrupt, EndsTheMeasuringOfTheCeilings) {
  expect_refusal(longshore({"bench", "decode", kNano}, "", 300), 130, "stopped");
}

TEST(Interrupt, EndsALongGenerationWith130AndOneLine) {
  const Finished run = longshore({"generate", kNano, "-p", "Hello", "--ignore-eos"}, "", 700);
  expect_refusal(run, 130, "stopped");
}

TEST(Interrupt, EndsACommandThatWaitsForInput) {
  // Early enough to come before the wait for input, late enough to come within it.
  for (const int ms : {0, 1, 20, 400}) {
    for (const std::string command : {"tokenize", "render", "chat"}) {
      // chat may be reading the model yet.
      const Finished run = longshore({command, kNano}, "", ms);
      expect_refusal(run, 130, run.err.find("stopped") != std::string::npos ? "" : "cancelled");
    }
  }
}

}  // namespace
}  // namespace longshore
