// The part of a system text that is the same in every request of a conversation.
//
// Threading: free functions without state.
#pragma once

#include <string>

namespace longshore::server {

// Without the line `x-anthropic-billing-header: ...`, which Claude Code sets before its system
// prompt with a new hash for every request (vllm-project/vllm#36829). leading: the text stands at
// the prompt's head; there `<total_tokens>` markers, which count down with every request
// (jundot/omlx#2881), go too. Later in the conversation they stay where they are and change nothing
// before them.
[[nodiscard]] std::string stable_system_text(const std::string& text, bool leading);

}  // namespace longshore::server
