// Token counts in OpenAI's form.
#pragma once

#include <cstdint>

#include "server/api/sse.h"
#include "session/completion.h"

namespace longshore::server {

struct Usage {
  int64_t prompt = 0;
  int64_t cached = 0;  // of the prompt
  int64_t completion = 0;
  int64_t reasoning = 0;  // of the completion

  // Another choice of the same prompt: the prompt counts once.
  void add_choice(const session::Completion& completion);
  // reasoning_tokens both where SGLang and where OpenAI put it.
  [[nodiscard]] Json json() const;
};

}  // namespace longshore::server
