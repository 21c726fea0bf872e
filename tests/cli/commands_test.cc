// What every command does with good input, on the bundled model.

#include <filesystem>
#include <map>
#include <span>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "tests/cli/process.h"
#include "tests/paths.h"

namespace longshore {
namespace {

using nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kSource = longshore::source_dir();
const std::string kNano = kSource + "/models/glm-nano";

std::vector<std::string> keys(const ordered_json& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.items()) names.push_back(key);
  return names;
}

std::vector<ordered_json> goldens(const std::string& file, size_t count) {
  std::vector<ordered_json> list;
  for (const std::string& line : lines_of(read_file(kSource + "/tests/data/goldens/" + file))) {
    if (list.size() < count) list.push_back(ordered_json::parse(line));
  }
  return list;
}

TEST(Tokenize, MatchesTheVectorsAndDecodesBack) {
  std::string texts;
  std::string ids;
  for (const ordered_json& golden : goldens("tokenizer-public.jsonl", 100)) {
    if (!golden["decoded_equal"].get<bool>()) continue;
    texts += golden["text"].dump() + "\n";
    ids += golden["ids"].dump() + "\n";
  }
  const Finished encoded = longshore({"tokenize", kNano}, texts);
  EXPECT_EQ(encoded.exit_code, 0) << encoded.err;
  EXPECT_EQ(encoded.out, ids);
  const Finished decoded = longshore({"tokenize", kNano, "--decode"}, ids);
  EXPECT_EQ(decoded.exit_code, 0) << decoded.err;
  EXPECT_EQ(decoded.out, texts);
}

TEST(Render, MatchesTheGoldenPromptsWithTheirArguments) {
  std::string requests;
  std::string prompts;
  for (ordered_json golden : goldens("chat-template-public.jsonl", 1000)) {
    prompts += golden["text"].dump() + "\n";
    golden.erase("text");
    golden.erase("ids");
    requests += golden.dump() + "\n";
  }
  const Finished rendered = longshore({"render", kNano}, requests);
  EXPECT_EQ(rendered.exit_code, 0) << rendered.err;
  EXPECT_EQ(rendered.out, prompts);
}

TEST(Generate, PrintsOneObjectPerPromptInOrder) {
  const Finished one = longshore(
      {"generate", kNano, "-p", "Hello", "--json", "--temperature", "0", "--max-tokens", "4"});
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const auto object = ordered_json::parse(one.out);
  EXPECT_THAT(keys(object), ElementsAre("prompt_ids", "ids", "text", "finish_reason", "stats"));
  EXPECT_EQ(object["finish_reason"], "length");
  EXPECT_EQ(object["ids"].size(), 4U);

  const std::string file = R"({"prompt": "Hello"}
{"messages": [{"role": "user", "content": "Goodbye!"}], "enable_thinking": false}

{"prompt": "one two"}
)";
  const Finished batch = longshore(
      {"generate", kNano, "--file", "-", "--json", "--temperature", "0", "--max-tokens", "20"},
      file);
  ASSERT_EQ(batch.exit_code, 0) << batch.err;
  const auto lines = lines_of(batch.out);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(ordered_json::parse(lines[0])["prompt_ids"], object["prompt_ids"]);
  EXPECT_EQ(ordered_json::parse(lines[1])["text"], "Goodbye! Have a nice day.");
  EXPECT_EQ(ordered_json::parse(lines[1])["finish_reason"], "stop");
  EXPECT_EQ(batch.err, "");
}

TEST(Generate, LinesMayDecideForThemselves) {
  const std::string file = R"({"prompt": "Hello", "max_tokens": 2, "id": 7}
{"prompt": "Hello", "temperature": 100, "seed": 3, "top_k": 1}
{"messages": [{"role": "user", "content": "Goodbye!"}], "enable_thinking": false, "stop": "nice", "top_p": 0.9}
{"prompt": "Hello", "max_tokens": 3, "logit_bias": {"9": 100}}
{"prompt": "Hello", "max_tokens": 3, "logit_bias": {"9": 30}, "presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 100}
)";
  const Finished run = longshore(
      {"generate", kNano, "--file", "-", "--json", "--temperature", "0", "--max-tokens", "9"},
      file);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto lines = lines_of(run.out);
  ASSERT_EQ(lines.size(), 5U);
  EXPECT_EQ(ordered_json::parse(lines[0])["ids"].size(), 2U);
  EXPECT_EQ(ordered_json::parse(lines[1])["ids"].size(), 9U);
  EXPECT_EQ(ordered_json::parse(lines[1])["ids"][1], ordered_json::parse(lines[0])["ids"][1])
      << "top_k 1 is greedy at every temperature";
  EXPECT_EQ(ordered_json::parse(lines[2])["text"], "Goodbye! Have a ");
  EXPECT_EQ(ordered_json::parse(lines[3])["ids"], ordered_json::parse("[9, 9, 9]"));
  const ordered_json penalised = ordered_json::parse(lines[4])["ids"];
  EXPECT_EQ(penalised[0], 9);
  EXPECT_NE(penalised[1], 9) << "the repetition penalty";
}

TEST(Generate, AStopStringDoesNotSwallowTheModel) {
  const Finished run = longshore({"generate", "-p", "Hello", "--temperature", "0", "--max-tokens",
                                  "4", "--stop", "zz", "--stop", "yy", kNano});
  EXPECT_EQ(run.exit_code, 0) << run.err;
}

TEST(Chat, TwoSlashesBeginAMessage) {
  const Finished run =
      longshore({"chat", kNano, "--temperature", "0", "--max-tokens", "4", "--no-think"},
                "//help\n/stats\n/help\n");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("\nanswer  ")) << "the model was asked";
  EXPECT_THAT(run.out, HasSubstr("//..."));
}

TEST(Generate, StreamsPlainText) {
  const Finished run =
      longshore({"generate", kNano, "-p", "Hello", "--temperature", "0", "--max-tokens", "4"});
  EXPECT_EQ(run.exit_code, 0);
  const Finished as_json = longshore(
      {"generate", kNano, "-p", "Hello", "--temperature", "0", "--max-tokens", "4", "--json"});
  EXPECT_EQ(run.out, ordered_json::parse(as_json.out)["text"].get<std::string>() + "\n");
}

// The weights are mapped once, activations are bounded by a step and the cache by the context.
TEST(Generate, DecodesTheBundledModelInLittleMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory hides the answer";
#endif
  const Finished run =
      longshore({"generate", kNano, "-p", "Hello", "--ignore-eos", "--max-tokens", "200",
                 "--context-length", "1024", "--chunked-prefill-size", "64", "--threads", "2"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  constexpr int64_t kMost = int64_t{72} << 20;
  EXPECT_LT(run.peak_bytes, kMost) << "bytes resident at the peak";
  RecordProperty("peak_bytes", std::to_string(run.peak_bytes));
}

TEST(Eval, CountsPerTask) {
  const Finished run = longshore(
      {"eval", kNano, kSource + "/tests/data/eval/tasks-public.jsonl", "--limit", "8", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto scores = ordered_json::parse(run.out);
  EXPECT_THAT(keys(scores), ElementsAre("total", "tasks"));
  EXPECT_EQ(scores["total"]["n"], 8);
  EXPECT_THAT(keys(scores["tasks"]["needle"]), ElementsAre("n", "correct"));
}

TEST(Logits, WritesTheLastPositionsAndThoseOfTheMtpLayer) {
  const TemporaryDirectory dir;
  write_file(dir.file("ids.json"), "[4075, 4077, 4080, 1738, 0]");
  const Finished run = longshore({"logits", kNano, "--ids", dir.file("ids.json"), "--out",
                                  dir.file("out.safetensors"), "--last", "3", "--mtp"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const std::string bytes = read_file(dir.file("out.safetensors"));
  const auto entries =
      parse_safetensors(std::as_bytes(std::span(bytes)), static_cast<int64_t>(bytes.size()), "out");
  ASSERT_TRUE(entries);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const SafetensorsEntry& entry : *entries) shapes[entry.name] = entry.shape;
  const std::map<std::string, std::vector<int64_t>> expected = {
      {"ids", {5}}, {"logits", {3, 4096}}, {"mtp_logits", {3, 4096}}};
  EXPECT_EQ(shapes, expected);
}

TEST(Inspect, VerifiesAndListsTensors) {
  const Finished run = longshore({"inspect", kNano});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("verified"));
  const Finished listed = longshore({"inspect", kNano, "--json", "--tensors", "--no-verify"});
  EXPECT_EQ(listed.exit_code, 0);
  EXPECT_GT(ordered_json::parse(listed.out)["tensors"].size(), 100U);
}

TEST(Inspect, PrintsJsonOfADirectoryWhoseNameIsNotUtf8) {
  const TemporaryDirectory dir;
  std::filesystem::create_directory_symlink(kNano, dir.file("\xff"));
  const Finished run = longshore({"inspect", dir.file("\xff"), "--json", "--no-verify"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(ordered_json::accept(run.out)) << run.out;
}

TEST(Chat, AnswersThroughAPipe) {
  const Finished run =
      longshore({"chat", kNano, "--temperature", "0", "--max-tokens", "40", "--no-think"},
                "/stats\nGoodbye!\n/stats\n/reset\n/nonsense\n/quit\nnever read\n");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  EXPECT_THAT(run.out, testing::StartsWith("no answer yet\nGoodbye! Have a nice day."));
  EXPECT_THAT(run.out, HasSubstr("\nprompt  "));
  EXPECT_THAT(run.out, HasSubstr("\nanswer  "));
  EXPECT_THAT(run.out, HasSubstr("the conversation is forgotten"));
  EXPECT_THAT(run.out, HasSubstr("unknown command /nonsense"));
}

TEST(Bench, ReportsDecodeAgainstTheCeilings) {
  const Finished run =
      longshore({"bench", "decode", kNano, "--json", "--context", "16", "--tokens", "4"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto report = ordered_json::parse(run.out);
  EXPECT_THAT(keys(report), ElementsAre("bench", "machine", "ceilings", "rows"));
  ASSERT_FALSE(report["rows"].empty());
  EXPECT_THAT(keys(report["rows"][0]), ElementsAre("case", "value", "unit", "bound", "ratio"));
}

TEST(Bench, RunsWithoutExpertWeightsAndNothingElseDoes) {
  const Finished run = longshore(
      {"bench", "decode", kNano, "--offload-mode", "meta", "--context", "16", "--tokens", "2"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"generate", kNano, "-p", "hi", "--offload-mode", "meta"},
        {"chat", kNano, "--offload-mode", "meta"}}) {
    const Finished refused = longshore(command);
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_THAT(refused.err, HasSubstr("--offload-mode meta has no expert weights"));
  }
  const Finished unknown = longshore({"generate", kNano, "-p", "hi", "--offload-mode", "shm_cpu"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("--offload-mode shm_cpu"));
}

TEST(Bench, TellsWhereATokensTimeGoes) {
  const Finished run =
      longshore({"bench", "decode", kNano, "--operations", "--context", "16", "--tokens", "2"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* row : {"experts (4 calls)", "sparse_mla (5 calls)",
                          "linear 4096 x 256 BF16 (1 calls)", "its weights", "between operations"})
    EXPECT_THAT(run.out, HasSubstr(row));
}

TEST(Bench, RefusesOperationsByNameWhereItHasNone) {
  const auto expect_refused = [](std::vector<std::string> args, const std::string& named) {
    args.insert(args.end(), {"--operations"});
    const Finished run = longshore(args);
    EXPECT_EQ(run.exit_code, 2) << named;
    EXPECT_EQ(run.out, "") << named;
    EXPECT_THAT(run.err, HasSubstr("--operations: "));
    EXPECT_THAT(run.err, HasSubstr(named));
  };
  for (const std::string name :
       {"prefill", "serving", "speculation", "cpu-expert", "policy", "grammar"})
    expect_refused({"bench", name}, "not bench " + name);
  for (const std::string name : {"decode", "offload"}) {
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), {"bench", name, kNano});
      return more;
    };
    expect_refused(with({"--device", "auto"}), "--device auto");
    expect_refused(with({"--precision", "reference"}), "--precision production");
    expect_refused(with({"--device", "cuda", "--disable-cuda-graph"}), "--disable-cuda-graph");
    expect_refused(with({"--device", "cuda", "--offload-group-size", "2"}), "--offload-group-size");
  }
  expect_refused({"bench", "offload", kNano}, "--device cpu");
  expect_refused({"bench", "offload", kNano, "--device", "cuda", "--only", "prefill"},
                 "--only prefill");
}

TEST(Plan, CountsTheMtpLayerWithSpeculationAlone) {
  const std::vector<std::string> small = {
      "plan",       "--synthetic", "glm-5.1:dense=3,moe=75,mtp=1", "--device-gib", "32",
      "--host-gib", "900"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), small.begin(), small.end());
    return longshore(more);
  };
  const Finished plain = with({});
  EXPECT_EQ(plain.exit_code, 0) << plain.out << plain.err;
  EXPECT_THAT(plain.out, HasSubstr("--speculative-num-steps 0"));
  const Finished drafts = with({"--speculative-num-steps", "3"});
  EXPECT_NE(drafts.exit_code, 0);
  EXPECT_THAT(drafts.out, HasSubstr("with --speculative-num-steps 3: the MTP layer drafts"));
  EXPECT_THAT(drafts.out, HasSubstr("does not fit: "));
  const auto json = ordered_json::parse(with({"--json"}).out);
  EXPECT_EQ(json["model"]["speculative_num_steps"], 0);
  EXPECT_GT(json["device"]["graphs"], 0);
  const Finished none =
      longshore({"plan", "--synthetic", "glm-5.1:dense=3,moe=75", "--speculative-num-steps", "1"});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.err, HasSubstr("has no MTP layer"));
}

TEST(Bench, ComparesDraftsWithPlainDecodingAndDrawsTheCurve) {
  const auto rows_of = [](const std::vector<std::string>& more) {
    std::vector<std::string> args = {"bench", "speculation", kNano, "--json",    "--pairs",
                                     "3",     "--tokens",    "3",   "--batches", "8"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished run = longshore(args);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    const auto report = ordered_json::parse(run.out);
    std::map<std::string, double> rows;
    for (const auto& row : report["rows"])
      rows[row["case"].get<std::string>()] = row["value"].get<double>();
    return rows;
  };
  const auto pairs = rows_of({});
  for (const char* which : {"greedy", "temperature 1", "wrong drafts"}) {
    const std::string name = std::string("random ids, ") + which + ", batch 8: ";
    ASSERT_TRUE(pairs.contains(name + "speed-up")) << name;
    EXPECT_LE(pairs.at(name + "95 % from"), pairs.at(name + "speed-up"));
    EXPECT_GE(pairs.at(name + "95 % to"), pairs.at(name + "speed-up"));
    EXPECT_TRUE(pairs.contains(name + "always 3, speed-up"));
  }
  EXPECT_EQ(pairs.at("random ids, wrong drafts, batch 8: right at depth 1"), 0);
  const auto curve = rows_of({"--accept-rates", "0.9", "--overlaps", "0.3"});
  for (const char* what : {"0 drafts", "3 drafts", "cost model", "it mostly drafts"})
    EXPECT_TRUE(curve.contains(std::string("acceptance 0.9, overlap 0.3, batch 8: ") + what));
}

}  // namespace
}  // namespace longshore
