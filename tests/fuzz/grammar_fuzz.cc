// GBNF, JSON Schema and patterns: whatever comes in, it is refused with a word or compiled into
// masks that lead somewhere. Input: a byte that chooses the language, then the source.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/mask_cache.h"
#include "text/grammar/regex.h"
#include "text/grammar/schema.h"

namespace {

using namespace longshore;
using namespace longshore::text;

std::shared_ptr<const Vocabulary> bytes() {
  static const auto made = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* more : {"\"}", "},{", "\":", "ab", "\",\"", "]]", "12", "é"})
      tokens.push_back(more);
    return std::make_shared<const Vocabulary>(std::move(tokens));
  }();
  return made;
}

// Some tokens along the grammar: there is always one, until the text can end.
void follow(const Grammar& grammar, uint32_t seed) {
  const auto automaton = Automaton::compile(grammar);
  if (!automaton) return LS_CHECK(!automaton.error().message.empty());
  MaskCache masks(*automaton, bytes(), size_t{1} << 20);
  Matcher matcher(**automaton);
  Matcher scratch(**automaton);
  std::vector<uint64_t> words(mask_words(bytes()->size()));
  for (int step = 0; step < 40; ++step) {
    if (!masks.fill(matcher, scratch, words)) return;  // too ambiguous
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < bytes()->size(); ++id) {
      if ((words[static_cast<size_t>(id) / 64] >> (id % 64) & 1U) != 0) allowed.push_back(id);
    }
    if (allowed.empty()) return LS_CHECK(matcher.ended());
    seed = seed * 1664525U + 1013904223U;
    if (!matcher.push_all(bytes()->bytes(allowed[(seed >> 8) % allowed.size()])))
      return LS_CHECK(matcher.exhausted());
    matcher.settle();
  }
}

void check_error(const Error& error) {
  LS_CHECK(error.kind == ErrorKind::kUsage && !error.message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  const std::string_view source(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    const auto grammar = parse_gbnf(source);
    if (!grammar) return check_error(grammar.error()), 0;
    follow(*grammar, data[0]);
  } else if (data[0] % 3 == 1) {
    Json schema = Json::parse(source, nullptr, /*allow_exceptions=*/false);
    if (schema.is_discarded()) return 0;
    const auto grammar = schema_grammar(std::move(schema));
    if (!grammar) return check_error(grammar.error()), 0;
    follow(*grammar, data[0]);
  } else {
    const auto made = compile_pattern(source, 2000);
    if (!made) check_error(made.error());
  }
  return 0;
}
