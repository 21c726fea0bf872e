#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/standard_input.h"
#include "session/chat_request.h"
#include "text/chat_template.h"
#include "text/json_depth.h"

namespace longshore::cli {
namespace {

Result<void> render(const std::string& model) {
  LS_TRY(const text::ChatTemplate chat_template, text::ChatTemplate::load(model));
  std::string line;
  for (int64_t number = 1;; ++number) {
    LS_TRY(const bool more, next_line(line));
    if (!more) return {};
    if (text::nests_deeper(line, text::kMaxJsonDepth)) {
      return fail(ErrorKind::kUsage, "line {}: nested more than {} levels deep", number,
                  text::kMaxJsonDepth);
    }
    const text::Json request = text::Json::parse(line, nullptr, /*allow_exceptions=*/false);
    auto variables = session::template_variables(request);
    if (!variables)
      return fail(variables.error().kind, "line {}: {}", number, variables.error().message);
    auto prompt = chat_template.render(*variables);
    if (!prompt) return fail(prompt.error().kind, "line {}: {}", number, prompt.error().message);
    std::cout << text::Json(*prompt).dump() << '\n' << std::flush;
  }
}

}  // namespace

Run add_render(CLI::App& command) {
  auto model = std::make_shared<std::string>();
  command.add_option("MODEL", *model, "model directory")->required();
  return [model] {
    const auto done = render(*model);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
