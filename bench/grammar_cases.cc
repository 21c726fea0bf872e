#include "bench/grammar_cases.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_set>

#include <fmt/format.h>

namespace longshore::bench {
namespace {

constexpr const char* kUser =
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
"email":{"type":"string","format":"email"},"active":{"type":"boolean"},"note":{"type":["string","null"]}},
"required":["name","age","email","active","note"],"additionalProperties":false})";
constexpr const char* kUserText =
    R"({"name":"Ada Lovelace","age":36,"email":"ada@example.org","active":true,"note":null})";

constexpr const char* kOrder =
    R"({"type":"object","properties":{"id":{"type":"string","format":"uuid"},"placed":{"type":"string","format":"date-time"},
"items":{"type":"array","minItems":1,"items":{"$ref":"#/$defs/item"}},"total":{"type":"number","minimum":0},
"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"},"zip":{"type":"string","pattern":"^[0-9]{5}$"}},
"required":["street","city","zip"],"additionalProperties":false}},"required":["id","placed","items","total","address"],"additionalProperties":false,
"$defs":{"item":{"type":"object","properties":{"sku":{"type":"string"},"quantity":{"type":"integer","minimum":1},"price":{"type":"number"},
"options":{"type":"array","items":{"type":"string"}}},"required":["sku","quantity","price"],"additionalProperties":false}}})";
constexpr const char* kOrderText =
    R"({"id":"6fa459ea-ee8a-3ca4-894e-db77e160355e","placed":"2024-02-29T12:30:00Z","items":[{"sku":"AB-1","quantity":2,"price":19.99,"options":["red","large"]},{"sku":"C 77","quantity":1,"price":5}],"total":44.98,"address":{"street":"Unter den Linden 1","city":"Berlin","zip":"10117"}})";

constexpr const char* kEvents =
    R"({"type":"array","items":{"anyOf":[
{"type":"object","properties":{"kind":{"const":"click"},"x":{"type":"integer"},"y":{"type":"integer"}},"required":["kind","x","y"],"additionalProperties":false},
{"type":"object","properties":{"kind":{"const":"key"},"key":{"enum":["enter","escape","tab","space","backspace","delete"]},"shift":{"type":"boolean"}},"required":["kind","key"],"additionalProperties":false},
{"type":"object","properties":{"kind":{"const":"type"},"text":{"type":"string"}},"required":["kind","text"],"additionalProperties":false},
{"type":"object","properties":{"kind":{"const":"wait"},"seconds":{"type":"number"}},"required":["kind","seconds"],"additionalProperties":false}]}})";
constexpr const char* kEventsText =
    R"([{"kind":"click","x":120,"y":480},{"kind":"type","text":"the quick brown fox jumps over the lazy dog"},{"kind":"key","key":"enter"},{"kind":"wait","seconds":1.5},{"kind":"key","key":"tab","shift":true}])";

constexpr const char* kTree =
    R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"string"},
"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value","children"],"additionalProperties":false}}})";
constexpr const char* kTreeText =
    R"({"value":"root","children":[{"value":"left","children":[{"value":"leaf one","children":[]},{"value":"leaf two","children":[]}]},{"value":"right","children":[{"value":"deep","children":[{"value":"deeper","children":[]}]}]}]})";

constexpr const char* kExtraction =
    R"({"type":"object","properties":{"title":{"type":"string","maxLength":120},"summary":{"type":"string","minLength":20,"maxLength":600},
"keywords":{"type":"array","items":{"type":"string","maxLength":30},"minItems":1,"maxItems":8},"sentiment":{"enum":["positive","neutral","negative"]},
"confidence":{"type":"number","minimum":0,"maximum":1},"language":{"type":"string","pattern":"^[a-z]{2}(-[A-Z]{2})?$"}},
"required":["title","summary","keywords","sentiment","confidence","language"],"additionalProperties":false})";
constexpr const char* kExtractionText =
    R"({"title":"Harbour cranes return to work","summary":"After three weeks of repairs the two large cranes of the northern harbour have been put back into service, and the first container ships were unloaded on Monday morning.","keywords":["harbour","cranes","container ships"],"sentiment":"positive","confidence":0.87,"language":"en-GB"})";

constexpr const char* kGrid =
    R"({"type":"object","properties":{"rows":{"type":"array","items":{"type":"array","items":{"type":"number"},"minItems":3,"maxItems":3}}},"required":["rows"],"additionalProperties":false})";
constexpr const char* kGridText =
    R"({"rows":[[1,2.5,-3],[0.125,1000,42],[7,8,9],[-1.75,0,3.14159]]})";

constexpr const char* kFree = R"({"type":"object"})";
constexpr const char* kFreeText =
    R"({"config":{"servers":[{"host":"alpha","ports":[80,443]},{"host":"beta","ports":[8080]}],"debug":false,"ratio":0.5,"nested":{"a":{"b":{"c":[1,[2,[3]]]}}}},"comment":"anything goes here, with \"quotes\" and\nlines"})";

GrammarCase wide_case() {
  GrammarCase made{.name = "40 optional properties", .schema = {}, .text = "{"};
  made.schema = R"({"type":"object","properties":{)";
  for (int i = 0; i < 40; ++i) {
    made.schema += fmt::format(R"({}"field_{}":{{"type":"{}"}})", i == 0 ? "" : ",", i,
                               i % 2 == 0 ? "string" : "integer");
    if (i % 3 != 0) continue;
    made.text += fmt::format(R"({}"field_{}":{})", i == 0 ? "" : ",", i,
                             i % 2 == 0 ? "\"some words\"" : "12345");
  }
  made.schema += R"(},"additionalProperties":false})";
  made.text += "}";
  return made;
}

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  uint64_t next() {
    uint64_t x = state_ += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
  }
  size_t below(size_t limit) { return next() % limit; }

 private:
  uint64_t state_ = 1;
};

std::string word(Random& random) {
  static constexpr std::array<std::string_view, 20> kHeads = {"b", "c",  "d",  "f",  "g",  "h", "l",
                                                              "m", "n",  "p",  "r",  "s",  "t", "v",
                                                              "w", "st", "tr", "ch", "th", ""};
  static constexpr std::array<std::string_view, 8> kCores = {"a", "e",  "i",  "o",
                                                             "u", "ea", "ou", "y"};
  static constexpr std::array<std::string_view, 12> kTails = {"",   "n",  "r", "s",  "t",  "l",
                                                              "nd", "ng", "m", "ck", "ss", "d"};
  std::string made;
  for (size_t syllables = 1 + random.below(4); syllables > 0; --syllables) {
    made += kHeads[random.below(kHeads.size())];
    made += kCores[random.below(kCores.size())];
    made += kTails[random.below(kTails.size())];
  }
  return made;
}

// One to three characters of CJK, Cyrillic or Latin with accents, as UTF-8.
std::string foreign(Random& random) {
  std::string made;
  const size_t script = random.below(3);
  for (size_t count = 1 + random.below(3); count > 0; --count) {
    if (script == 0) {
      const auto code = static_cast<uint32_t>(0x4E00 + random.below(0x3000));
      made += static_cast<char>(0xE0 | (code >> 12));
      made += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      made += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      const auto code = static_cast<uint32_t>((script == 1 ? 0x430 : 0xE0) + random.below(0x1F));
      made += static_cast<char>(0xC0 | (code >> 6));
      made += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return made;
}

}  // namespace

std::vector<GrammarCase> grammar_cases() {
  return {{"user", kUser, kUserText},
          {"order", kOrder, kOrderText},
          {"events (anyOf)", kEvents, kEventsText},
          {"tree (recursion)", kTree, kTreeText},
          {"extraction (lengths)", kExtraction, kExtractionText},
          {"grid of numbers", kGrid, kGridText},
          {"any object", kFree, kFreeText},
          wide_case()};
}

std::vector<std::string> synthetic_vocabulary(size_t size) {
  std::vector<std::string> tokens;
  std::unordered_set<std::string> known;
  const auto add = [&](const std::string& token) {
    if (tokens.size() < size && known.insert(token).second) tokens.push_back(token);
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (int number = 0; number < 1000; ++number) {
    add(fmt::format("{}", number));
    add(fmt::format("{:02}", number));
    add(fmt::format("{:03}", number));
  }
  for (size_t blanks = 2; blanks <= 80; ++blanks) {
    add(std::string(blanks, ' '));
    add("\n" + std::string(blanks, ' '));
  }
  Random random;
  static constexpr std::string_view kMarks = "\"\"\"\"{}[]:,,.;()<>=+-*/\\_'!?#&|%@ \n";
  while (tokens.size() < std::min<size_t>(size, 4000)) {
    std::string token;
    for (size_t length = 2 + random.below(4); length > 0; --length)
      token += kMarks[random.below(kMarks.size())];
    add(token);
  }
  // About one word in fifty has marks around it, as in vocabularies that were trained.
  static constexpr std::array<std::string_view, 6> kBefore = {"\"", "_", ".", "(", "/", " \""};
  static constexpr std::array<std::string_view, 6> kAfter = {"\"", "(", "\":", ".", "\",", "'"};
  while (tokens.size() < size) {
    if (random.below(4) == 0) {
      add(foreign(random));
      continue;
    }
    std::string body = word(random);
    if (random.below(4) == 0) body[0] = static_cast<char>(body[0] & ~0x20);
    std::string token(random.below(2) == 0 ? " " : "");
    if (random.below(50) == 0) token = kBefore[random.below(kBefore.size())];
    token += body;
    if (random.below(50) == 0) token += kAfter[random.below(kAfter.size())];
    add(token);
  }
  return tokens;
}

}  // namespace longshore::bench
