#include "text/tokenizer.h"

#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "tests/paths.h"
#include "text/split_regex.h"

namespace longshore::text {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::string kRoot = longshore::source_dir();
const std::string kModelFile = kRoot + "/models/glm-nano/tokenizer.json";
const std::string kGoldens = kRoot + "/tests/data/goldens/";

std::vector<json> read_lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

const Tokenizer& nano() {
  static const Tokenizer tokenizer = [] {
    auto loaded = Tokenizer::load(kModelFile);
    LS_CHECK_MSG(loaded.has_value(), "{}", loaded.error().message);
    return std::move(*loaded);
  }();
  return tokenizer;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  auto ids = tokenizer.encode(text);
  EXPECT_TRUE(ids.has_value()) << ids.error().message;
  return ids.value_or(std::vector<int32_t>{});
}

void expect_vectors(const std::string& file, size_t count) {
  const auto lines = read_lines(kGoldens + file);
  ASSERT_EQ(lines.size(), count);
  for (const json& line : lines) {
    const auto text = line["text"].get<std::string>();
    const auto ids = line["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(encode(nano(), text), ids) << line;
    EXPECT_EQ(nano().decode(ids) == text, line["decoded_equal"].get<bool>()) << line;
  }
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The smallest tokenizer that loads, for tests that break one key.
json tiny() {
  return json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<t>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{L}+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": [["a", "b"]]}
  })");
}

std::string error_of(const json& tokenizer) {
  auto parsed = Tokenizer::parse(tokenizer.dump(), "t.json");
  if (parsed) return "loaded";
  EXPECT_EQ(parsed.error().kind, ErrorKind::kModel);
  EXPECT_EQ(parsed.error().message.find('\n'), std::string::npos);
  EXPECT_THAT(parsed.error().message, HasSubstr("t.json"));
  EXPECT_THAT(parsed.error().message, HasSubstr("; download ")) << "what to do";
  return parsed.error().message;
}

std::string error_with(const char* pointer, const json& value) {
  json tokenizer = tiny();
  tokenizer[json::json_pointer(pointer)] = value;
  return error_of(tokenizer);
}

TEST(Tokenizer, MatchesHuggingFaceOnEveryVector) {
  expect_vectors("tokenizer-public.jsonl", 300);
}

TEST(Tokenizer, MatchesHuggingFaceOnTrickyCharacters) {
  expect_vectors("tokenizer-extra.jsonl", 241);
}

TEST(Tokenizer, MatchesHuggingFaceWithOtherOptions) {
  std::ifstream file(kGoldens + "tokenizer-variants.json");
  const json variants = json::parse(file);
  ASSERT_EQ(variants.size(), 7U);
  for (const json& variant : variants) {
    auto tokenizer = Tokenizer::parse(variant["tokenizer"].dump(), variant["name"]);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    for (const json& item : variant["cases"]) {
      const auto ids = item["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(encode(*tokenizer, item["text"].get<std::string>()), ids)
          << variant["name"] << item;
      EXPECT_EQ(tokenizer->decode(ids), item["decoded"].get<std::string>()) << item;
      EXPECT_EQ(tokenizer->decode(ids, true), item["decoded_skip"].get<std::string>()) << item;
    }
  }
}

TEST(Tokenizer, TellsAboutTokens) {
  EXPECT_EQ(nano().vocab_size(), 4096);
  EXPECT_EQ(nano().id_of("<|user|>"), 4080);
  EXPECT_EQ(nano().id_of("no such token"), std::nullopt);
  EXPECT_TRUE(nano().is_special(4080));
  EXPECT_TRUE(nano().is_added(4083));
  EXPECT_FALSE(nano().is_special(4083));
  EXPECT_FALSE(nano().is_added(0));
  EXPECT_EQ(nano().bytes(4084), "</think>");
  for (const int32_t unknown : {-1, 4096, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(nano().bytes(unknown), "");
    EXPECT_FALSE(nano().is_special(unknown));
    EXPECT_FALSE(nano().is_added(unknown));
  }
}

TEST(Tokenizer, KnowsItsLongestToken) {
  int64_t longest = 0;
  for (int32_t id = 0; id < 4096; ++id)
    longest = std::max(longest, static_cast<int64_t>(nano().bytes(id).size()));
  EXPECT_EQ(nano().max_token_bytes(), longest);
  EXPECT_GT(longest, 4);
}

TEST(Tokenizer, DecodesUnknownIdsToNothing) {
  const std::vector<int32_t> ids = {-5, 64, 4096, 65, INT32_MAX};
  EXPECT_EQ(nano().decode(ids), "ab");
}

TEST(Tokenizer, SkipsSpecialTokensOnly) {
  const std::vector<int32_t> ids = {4080, 64, 4083, 4081};
  EXPECT_EQ(nano().decode(ids, true), "a<think>");
}

TEST(Tokenizer, RefusesInvalidUtf8WithItsOffset) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> cases = {{"\xff"s, "byte 0"},
                                                                  {"ab\xC3"s, "byte 2"},
                                                                  {"\xC3\xA9\xC0\x80"s, "byte 2"},
                                                                  {"\xED\xA0\x80"s, "byte 0"},
                                                                  {"x\xF4\x90\x80\x80"s, "byte 1"},
                                                                  {"\xE4\xB8"s, "byte 0"}};
  for (const auto& [text, place] : cases) {
    auto ids = nano().encode(text);
    ASSERT_FALSE(ids.has_value());
    EXPECT_EQ(ids.error().kind, ErrorKind::kUsage);
    EXPECT_THAT(ids.error().message, HasSubstr(place));
  }
}

TEST(Tokenizer, ReplacesEachMaximalInvalidPart) {
  const auto decode = [](const std::string& bytes) {
    std::vector<int32_t> ids;
    for (const char byte : bytes) {
      int32_t id = 0;
      while (nano().bytes(id) != std::string_view(&byte, 1)) ++id;
      ids.push_back(id);
    }
    return nano().decode(ids);
  };
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(decode("a\xFF"), "a" + r);
  EXPECT_EQ(decode("\xE4\xB8"), r);
  EXPECT_EQ(decode("\xE4\xB8\x61"), r + "a");
  EXPECT_EQ(decode("\xE4\xE4\xB8\xB8"), r + "\xE4\xB8\xB8");
  EXPECT_EQ(decode("\xE0\x80\x80"), r + r + r);
  EXPECT_EQ(decode("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(decode("\xF0\x9F\x98"), r);
  EXPECT_EQ(decode("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(decode("\xC0\xAF"), r + r);
}

TEST(Tokenizer, NamesWhatItRefuses) {
  EXPECT_EQ(error_of(tiny()), "loaded");
  EXPECT_THAT(error_with("/normalizer", {{"type", "NFC"}}), HasSubstr("'NFC'"));
  EXPECT_THAT(error_with("/decoder", nullptr), HasSubstr("decoder must be an object"));
  EXPECT_THAT(error_with("/decoder/type", "Metaspace"), HasSubstr("'Metaspace'"));
  EXPECT_THAT(error_with("/model/type", "Unigram"), HasSubstr("'Unigram'"));
  EXPECT_THAT(error_with("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(error_with("/model/byte_fallback", true), HasSubstr("model.byte_fallback"));
  EXPECT_THAT(error_with("/model/unk_token", "a"), HasSubstr("model.unk_token"));
  EXPECT_THAT(error_with("/model/vocab", 3), HasSubstr("model.vocab must be an object"));
  EXPECT_THAT(error_with("/model/vocab", json::object()), HasSubstr("model.vocab is empty"));
  EXPECT_THAT(error_with("/model/merges", "x"), HasSubstr("model.merges must be an array"));
  EXPECT_THAT(error_with("/model/ignore_merges", 1), HasSubstr("true or false"));
  EXPECT_THAT(error_with("/pre_tokenizer/type", "Whitespace"), HasSubstr("'Whitespace'"));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/0/behavior", "Removed"),
              HasSubstr("'Removed'"));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/0/invert", true), HasSubstr("invert"));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/1/add_prefix_space", true),
              HasSubstr("add_prefix_space"));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/0", 1), HasSubstr("pretokenizers[0]"));
}

TEST(Tokenizer, RefusesWhatWouldCutOrAddTokens) {
  EXPECT_THAT(error_with("/truncation", {{"max_length", 512}}), HasSubstr("truncation is set"));
  EXPECT_THAT(error_with("/padding", {{"pad_id", 0}}), HasSubstr("padding is set"));
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json token = {{"SpecialToken", {{"id", "<t>"}, {"type_id", 0}}}};
  const auto with_pieces = [](const json& pieces) {
    return json{{"type", "TemplateProcessing"}, {"single", pieces}};
  };
  const auto sequence = [](const json& steps) {
    return json{{"type", "Sequence"}, {"processors", steps}};
  };
  const json adds = with_pieces(json::array({token, text}));
  EXPECT_THAT(error_with("/post_processor", adds),
              HasSubstr("post_processor.single adds special tokens"));
  EXPECT_THAT(error_with("/post_processor", sequence(json::array({byte_level, adds}))),
              HasSubstr("post_processor.processors[1].single adds special tokens"));
  EXPECT_THAT(error_with("/post_processor", {{"type", "BertProcessing"}}),
              HasSubstr("'BertProcessing'"));
  EXPECT_EQ(error_with("/post_processor", nullptr), "loaded");
  EXPECT_EQ(error_with("/post_processor", byte_level), "loaded");
  EXPECT_EQ(error_with("/post_processor", with_pieces(json::array({text}))), "loaded");
  EXPECT_EQ(error_with("/post_processor", sequence(json::array({byte_level}))), "loaded");
}

TEST(Tokenizer, NamesTheBrokenEntry) {
  EXPECT_THAT(error_with("/model/merges/0", {"a", "c"}), HasSubstr("'c' is not in model.vocab"));
  EXPECT_THAT(error_with("/model/merges/0", {"b", "a"}), HasSubstr("'ba' is not in model.vocab"));
  EXPECT_THAT(error_with("/model/merges/0", "a b b"), HasSubstr("model.merges[0]"));
  EXPECT_EQ(error_with("/model/merges/0", "a b"), "loaded");
  EXPECT_THAT(error_with("/model/vocab/b", 0), HasSubstr("the same id 0"));
  EXPECT_THAT(error_with("/model/vocab/b", -1), HasSubstr("'b': its id -1 is negative"));
  EXPECT_THAT(error_with("/model/vocab/b", 1.5), HasSubstr("integer"));
  EXPECT_THAT(error_with("/model/vocab/b", 4000000000U), HasSubstr("out of range"));
  EXPECT_THAT(error_with("/model/vocab/漢", 9), HasSubstr("'漢' has a character outside"));
  EXPECT_THAT(error_with("/added_tokens/0/id", 2), HasSubstr("'ab' has id 2, as '<t>'"));
  EXPECT_THAT(error_with("/added_tokens/0/content", "ab"), HasSubstr("'ab' has id 2, but 4"));
  EXPECT_THAT(error_with("/added_tokens/0/content", ""), HasSubstr("added_tokens[0].content"));
  EXPECT_THAT(error_with("/added_tokens/0", "x"), HasSubstr("added_tokens[0] must be an object"));
}

TEST(Tokenizer, RefusesBrokenJson) {
  for (const std::string& text :
       {std::string("{"), std::string(), std::string("[]"), std::string(100000, '['),
        std::string("{\"model\": ") + std::string(1000, '{')}) {
    auto parsed = Tokenizer::parse(text, "t.json");
    ASSERT_FALSE(parsed.has_value());
    EXPECT_EQ(parsed.error().kind, ErrorKind::kModel);
  }
  auto at = Tokenizer::parse("{\"model\": nonsense}", "t.json");
  ASSERT_FALSE(at.has_value());
  EXPECT_THAT(at.error().message, HasSubstr("t.json: not valid JSON at byte 12"));
  auto missing = Tokenizer::load("/no/such/tokenizer.json");
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("/no/such/tokenizer.json"));
}

TEST(Tokenizer, LongRunsTakeLinearTime) {
  const std::vector<std::string> texts = {
      std::string(1 << 20, 'a'),        std::string(1 << 20, ' '), std::string(1 << 20, ' ') + "a",
      "\n" + std::string(1 << 20, ' '), std::string(1 << 20, '<'), std::string(1 << 20, '\n')};
  for (const std::string& text : texts) {
    std::vector<int32_t> ids;
    EXPECT_LT(seconds_of([&] { ids = encode(nano(), text); }), 20.0);
    EXPECT_EQ(nano().decode(ids), text);
  }
}

TEST(SplitRegex, ExplosivePatternsEndInAnError) {
  auto regex = SplitRegex::compile("(a+)+[bc]", "t.json");
  ASSERT_TRUE(regex.has_value());
  SplitRegex::Scratch scratch;
  std::vector<size_t> ends;
  const auto result = regex->split(std::string(40, 'a') + "!", scratch, ends);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().kind, ErrorKind::kModel);
}

TEST(SplitRegex, RefusesWhatOnigurumaReadsDifferently) {
  for (const char* pattern : {"\\w+", "\\bx", "^a", "a$", "a.b", "a{2}+", "[a[b]]", "[a&&b]", "\\h",
                              "\\p{Han}", "(?m:a)", "(?<n>a)", "\\", "(", "[a", "\\pL"}) {
    auto regex = SplitRegex::compile(pattern, "t.json: key");
    ASSERT_FALSE(regex.has_value()) << pattern;
    EXPECT_EQ(regex.error().kind, ErrorKind::kModel);
    EXPECT_THAT(regex.error().message, HasSubstr("t.json: key"));
  }
}

TEST(SplitRegex, EmptyMatchesCut) {
  auto regex = SplitRegex::compile("x*", "t.json");
  SplitRegex::Scratch scratch;
  std::vector<size_t> ends;
  ASSERT_TRUE(regex->split("a\xC3\xA9xxb", scratch, ends).has_value());
  EXPECT_EQ(ends, (std::vector<size_t>{1, 3, 5, 6}));
}

}  // namespace
}  // namespace longshore::text
