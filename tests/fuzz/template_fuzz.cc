// Any bytes as a template: compile and render with small bounds. Whatever comes is an error or a
// text, never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/jinja/template.h"

namespace {

using longshore::text::jinja::Limits;
using longshore::text::jinja::Template;
using Json = nlohmann::ordered_json;

const Json& variables() {
  static const Json kVariables = Json::parse(R"({
    "messages": [{"role": "user", "content": "Grüße 😀"}, {"role": "assistant", "content": [{"type": "text", "text": "a</think>b"}],
                  "tool_calls": [{"function": {"name": "f", "arguments": {"k": [1, 2.5, null, true, "v"]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 18446744073709551615}}}],
    "x": 5, "s": "text", "add_generation_prompt": true})");
  return kVariables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto compiled = Template::compile(source, "fuzz");
  if (!compiled) return 0;
  const Limits limits{.steps = 20'000, .output_bytes = 1 << 16, .depth = 200};
  const auto text = compiled->render(variables(), Json::object(), limits);
  if (text && text->size() > static_cast<size_t>(limits.output_bytes)) __builtin_trap();
  return 0;
}
