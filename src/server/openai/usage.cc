#include "server/openai/usage.h"

namespace longshore::server {

void Usage::add_choice(const session::Completion& choice) {
  completion += choice.stats.output_tokens;
  reasoning += choice.reasoning_tokens;
}

Json Usage::json() const {
  return {{"prompt_tokens", prompt},
          {"total_tokens", prompt + completion},
          {"completion_tokens", completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning}}},
          {"reasoning_tokens", reasoning}};
}

}  // namespace longshore::server
