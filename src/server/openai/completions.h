// POST /v1/completions: the request's body to an Exchange.
//
// Threading: any thread; the Exchange that comes back belongs to one at a time.
#pragma once

#include <memory>

#include "server/api_options.h"
#include "server/exchange.h"
#include "text/chat_template.h"

namespace longshore::server {

// prompt: a string, a list of strings, a list of token ids, or a list of such lists; each gives n
// choices. loaded outlives the Exchange. Fields as in openai_chat.
ApiResult<std::unique_ptr<Exchange>> openai_completions(const session::LoadedModel& loaded,
                                                        const text::Json& body,
                                                        const ApiOptions& options);

}  // namespace longshore::server
