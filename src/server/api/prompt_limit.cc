#include "server/api/prompt_limit.h"

#include <fmt/format.h>

#include "server/api/generation_fields.h"

namespace longshore::server {

bool may_fit_context(const session::LoadedModel& loaded, std::string_view text, const char* field,
                     Fault& fault) {
  const int64_t context = context_length(loaded);
  const int64_t longest = loaded.tokenizer->max_token_bytes();
  const auto bytes = static_cast<int64_t>(text.size());
  const int64_t fewest = bytes / longest + (bytes % longest == 0 ? 0 : 1);
  if (fewest <= context) return true;
  fault.set({.status = 400,
             .message = fmt::format(
                 "prompt is too long: This model's maximum context length is {} tokens, and {} has "
                 "at least {} tokens ({} bytes, of which a token holds at most {}): shorten it",
                 context, field, fewest, bytes, longest),
             .param = field,
             .code = "context_length_exceeded"});
  return false;
}

}  // namespace longshore::server
