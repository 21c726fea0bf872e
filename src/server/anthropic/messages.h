// POST /v1/messages and /v1/messages/count_tokens: the request's body to an Exchange, or to a
// count.
//
// Threading: any thread; the Exchange that comes back belongs to one at a time.
#pragma once

#include <memory>
#include <string>

#include "server/api_options.h"
#include "server/exchange.h"
#include "text/chat_template.h"

namespace longshore::server {

// loaded outlives the Exchange. Every field is supported, changes nothing by nature, or is refused:
// 400 with its name (docs/decisions/api-dialects.md has the table).
ApiResult<std::unique_ptr<Exchange>> anthropic_messages(const session::LoadedModel& loaded,
                                                        const text::Json& body,
                                                        const ApiOptions& options);

// The answer's body, {"input_tokens": N}: the prompt as anthropic_messages would render it, tools
// and system included.
ApiResult<std::string> anthropic_count_tokens(const session::LoadedModel& loaded,
                                              const text::Json& body, const ApiOptions& options);

}  // namespace longshore::server
