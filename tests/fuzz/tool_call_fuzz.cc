// OutputParser: pieces give what the whole gives, every call has a JSON object and an end. Input: a
// byte of options, a byte that seeds the split, then the model's output.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/output_parser.h"

namespace {

using namespace longshore::text;
using Kind = OutputDelta::Kind;

OutputParserOptions make_options(uint8_t bits) {
  static const Json kTools = Json::parse(
      R"([{"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "i": {"type": "integer"},
      "u": {"type": ["string", "integer"]}}}}, {"name": "get"}])");
  OutputParserOptions options;
  options.starts_in_reasoning = (bits & 1) != 0;
  options.parse_reasoning = (bits & 2) == 0;
  options.parse_tool_calls = (bits & 4) == 0;
  if ((bits & 8) == 0) options.tools = kTools;
  return options;
}

void append(std::vector<OutputDelta>& all, const std::vector<OutputDelta>& more) {
  for (const OutputDelta& delta : more) {
    const bool joins = delta.kind != Kind::kToolCallBegin && delta.kind != Kind::kToolCallEnd;
    if (joins && !all.empty() && all.back().kind == delta.kind) {
      all.back().text += delta.text;
    } else {
      all.push_back(delta);
    }
  }
}

// Pieces of 1 to 8 bytes; a seed of 0 gives the whole.
std::vector<OutputDelta> parse(std::string_view text, uint8_t bits, uint32_t seed) {
  OutputParser parser(make_options(bits));
  std::vector<OutputDelta> all;
  const bool split = seed != 0;
  while (!text.empty()) {
    seed = seed * 1664525U + 1013904223U;
    const size_t length = split ? 1 + (seed >> 29) : text.size();
    append(all, parser.push(text.substr(0, length)));
    text.remove_prefix(length < text.size() ? length : text.size());
  }
  append(all, parser.finish((bits & 16) != 0));
  return all;
}

// A call that ended has whole arguments. One that was cut is the last and stays open, and so does
// its JSON: nobody can take it for whole.
void check_calls(const std::vector<OutputDelta>& deltas, bool stopped) {
  bool open = false;
  int calls = 0;
  std::string arguments;
  for (const OutputDelta& delta : deltas) {
    if (delta.kind == Kind::kToolCallBegin) {
      LS_CHECK(!open && delta.call_index == calls && !delta.text.empty());
      open = true;
      arguments.clear();
    } else if (delta.kind == Kind::kToolCallArgs) {
      LS_CHECK(open && delta.text.starts_with('{'));
      arguments = delta.text;
    } else if (delta.kind == Kind::kToolCallEnd) {
      LS_CHECK(open && Json::accept(arguments));
      open = false;
      ++calls;
    } else {
      LS_CHECK(!open && !delta.text.empty());
    }
  }
  LS_CHECK(!open || (!stopped && !Json::accept(arguments)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto whole = parse(text, data[0], 0);
  const auto pieces = parse(text, data[0], 1U + data[1]);
  check_calls(whole, (data[0] & 16) != 0);
  LS_CHECK(whole.size() == pieces.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    LS_CHECK(whole[i].kind == pieces[i].kind && whole[i].text == pieces[i].text);
  }
  return 0;
}
