#include "server/openai/lengths.h"

#include <limits>

#include <fmt/format.h>

namespace longshore::server {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void set_too_long(std::string message, const char* field, Fault& fault) {
  fault.set({.status = 400,
             .message = std::move(message),
             .param = field,
             .code = "context_length_exceeded"});
}

}  // namespace

std::optional<int64_t> read_max_tokens(FieldReader& fields, bool chat) {
  const auto old_name = fields.integer("max_tokens", 1, kMaxInt32);
  if (!chat) return old_name;
  const auto new_name = fields.integer("max_completion_tokens", 1, kMaxInt32);
  if (old_name && new_name && *old_name != *new_name) {
    fields.fault().set("max_tokens", "max_tokens and max_completion_tokens differ: give one");
  }
  return new_name ? new_name : old_name;
}

void check_lengths(const session::LoadedModel& loaded, const engine::GenerationRequest& generation,
                   const char* field, Fault& fault) {
  const int64_t context = context_length(loaded);
  const auto prompt = static_cast<int64_t>(generation.prompt.size());
  if (prompt >= context) {
    set_too_long(
        fmt::format(
            "This model's maximum context length is {} tokens, and {} has {} tokens: shorten it",
            context, field, prompt),
        field, fault);
  } else if (generation.max_tokens > context - prompt) {
    set_too_long(
        fmt::format("This model's maximum context length is {} tokens, and {} were requested ({} "
                    "in {}, {} for "
                    "the completion): shorten the one or the other",
                    context, prompt + generation.max_tokens, prompt, field, generation.max_tokens),
        field, fault);
  }
  if (generation.max_tokens > 0 && generation.min_tokens > generation.max_tokens) {
    fault.set("min_tokens", fmt::format("{} is more than max_tokens, {}", generation.min_tokens,
                                        generation.max_tokens));
  }
}

}  // namespace longshore::server
