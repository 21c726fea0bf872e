// Small parts of answers that OpenAI's two dialects share.
#pragma once

#include <string_view>

#include "server/api/sse.h"
#include "session/completion.h"

namespace longshore::server {

// The event after the last.
constexpr std::string_view kDone = "data: [DONE]\n\n";

// SGLang's matched_stop: the stop token's id, the stop string, or null.
[[nodiscard]] inline Json matched_stop(const session::Completion& completion) {
  if (completion.matched_id) return *completion.matched_id;
  return completion.matched_stop.empty() ? Json() : Json(completion.matched_stop);
}

}  // namespace longshore::server
