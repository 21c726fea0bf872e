#include "text/output_parser.h"

#include <utility>

#include "text/parsers/glm_tool_call.h"
#include "text/parsers/reasoning.h"
#include "text/parsers/tool_schema.h"

namespace longshore::text {

struct OutputParser::Impl {
  explicit Impl(const OutputParserOptions& options)
      : parse_reasoning(options.parse_reasoning),
        schemas(options.tools),
        reasoning(options.starts_in_reasoning, interrupting_tools(options)),
        calls(schemas, {options.parse_tool_calls, options.parse_reasoning}),
        verbatim(options.verbatim) {}

  [[nodiscard]] std::vector<std::string> interrupting_tools(
      const OutputParserOptions& options) const {
    return options.parse_tool_calls ? schemas.names() : std::vector<std::string>{};
  }

  void add(const ReasoningSplitter::Pieces& pieces, std::vector<OutputDelta>& out) {
    if (!pieces.reasoning.empty()) {
      out.push_back({OutputDelta::Kind::kReasoning, 0, pieces.reasoning});
    }
    add_rest(pieces.rest, out);
  }

  void add_rest(std::string_view text, std::vector<OutputDelta>& out) {
    if (!verbatim) return calls.push(text, out);
    if (!text.empty()) out.push_back({OutputDelta::Kind::kContent, 0, std::string(text)});
  }

  bool parse_reasoning;
  ToolSchemas schemas;
  ReasoningSplitter reasoning;
  GlmToolCallParser calls;
  bool verbatim;
};

OutputParser::OutputParser(const OutputParserOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
OutputParser::~OutputParser() = default;
OutputParser::OutputParser(OutputParser&&) noexcept = default;
OutputParser& OutputParser::operator=(OutputParser&&) noexcept = default;

std::vector<OutputDelta> OutputParser::push(std::string_view text) {
  std::vector<OutputDelta> out;
  if (impl_->parse_reasoning) {
    impl_->add(impl_->reasoning.push(text), out);
  } else {
    impl_->add_rest(text, out);
  }
  return out;
}

std::vector<OutputDelta> OutputParser::finish(bool stopped) {
  std::vector<OutputDelta> out;
  if (impl_->parse_reasoning) impl_->add(impl_->reasoning.finish(stopped), out);
  impl_->calls.finish(stopped, out);
  return out;
}

}  // namespace longshore::text
