// Tokenizer: any file is loaded or refused, any text is encoded or refused, and what a loaded
// tokenizer encodes streams to what it decodes. Input: a tokenizer.json, or (from a first byte 0) a
// text for a fixed small tokenizer.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

using longshore::text::StreamDetokenizer;
using longshore::text::Tokenizer;

constexpr std::string_view kFixed = R"({
  "added_tokens": [
    {"id": 10, "content": "<t>", "special": true, "lstrip": true, "rstrip": true, "normalized": false},
    {"id": 11, "content": "<t>x", "single_word": true, "normalized": false},
    {"id": 12, "content": "ab", "normalized": true}],
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE",
    "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "bc": 4, "abc": 5, "Ã": 6, "©": 7, "Ã©": 8, "aa": 9},
    "merges": ["b c", "a bc", "Ã ©", "a a"]}
})";

void check_text(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  if (!ids) return;
  for (const bool skip : {false, true}) {
    StreamDetokenizer stream(tokenizer, skip);
    std::string out;
    for (const int32_t id : *ids) {
      LS_CHECK(id >= 0 && id < tokenizer.vocab_size());
      out += stream.push(id);
    }
    out += stream.finish();
    LS_CHECK(out == tokenizer.decode(*ids, skip));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with('\0')) {
    static const auto kTokenizer = Tokenizer::parse(kFixed, "fixed");
    LS_CHECK(kTokenizer.has_value());
    check_text(*kTokenizer, input.substr(1));
    return 0;
  }
  const auto tokenizer = Tokenizer::parse(input, "fuzz");
  if (tokenizer) check_text(*tokenizer, "abc <t> ab\xC3\xA9'S 123\n");
  return 0;
}
