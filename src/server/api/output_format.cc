#include "server/api/output_format.h"

#include <charconv>

#include <fmt/format.h>

namespace longshore::server {
namespace {

std::string field_of(const std::string& part, const FormatFields& fields) {
  constexpr std::string_view kTool = "tools[";
  if (!part.starts_with(kTool)) return part == "tools" ? part : fields.answer;
  size_t index = 0;
  (void)std::from_chars(part.data() + kTool.size(), part.data() + part.size(), index);
  return index < fields.tools.size() ? fields.tools[index] : "tools";
}

}  // namespace

void constrain(const session::LoadedModel& loaded, const text::OutputFormat& format,
               const FormatFields& fields, session::CompletionRequest& request, Fault& fault) {
  if (fault || !format.constrains()) return;
  auto made = loaded.constraints->compile(format);
  if (!made) return fault.set(field_of(made.error().part, fields), made.error().message);
  request.generation.constraint = std::move(*made);
  request.parser.verbatim = format.calls == text::OutputFormat::Calls::kNone;
}

void allow_calls(const Json& tools, const std::vector<std::string>& paths, const std::string& name,
                 text::OutputFormat& format, FormatFields& fields) {
  format.tools = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!name.empty() && tools[i]["function"]["name"] != name) continue;
    format.tools.push_back(tools[i]);
    fields.tools.push_back(paths[i]);
  }
}

}  // namespace longshore::server
