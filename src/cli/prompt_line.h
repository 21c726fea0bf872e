// A line of `generate --file`: which keys it may have, and what they change of the command's flags.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "cli/options.h"
#include "text/chat_template.h"

namespace longshore::cli {

// Keys: prompt, or messages with tools, documents, enable_thinking, clear_thinking,
// chat_template_kwargs; id, which is ignored; and max_tokens, temperature, top_p, top_k, min_p,
// repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed, stop, which go before
// the flags. kUsage names the key.
[[nodiscard]] Result<void> check_line(const text::Json& line);

struct LineOptions {
  text::Json request;  // what the template sees
  SamplingFlags sampling;
  std::vector<std::string> stop;
};
// line has passed check_line().
[[nodiscard]] LineOptions line_options(const text::Json& line, const SamplingFlags& sampling,
                                       const std::vector<std::string>& stop);

}  // namespace longshore::cli
