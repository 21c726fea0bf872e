// POST /v1/chat/completions: the request's body to an Exchange.
//
// Threading: any thread; the Exchange that comes back belongs to one at a time.
#pragma once

#include <memory>

#include "server/api_options.h"
#include "server/exchange.h"
#include "text/chat_template.h"

namespace longshore::server {

// loaded outlives the Exchange. Every field is supported, changes nothing by nature, or is refused:
// 400 with its name (docs/decisions/api-dialects.md has the table).
ApiResult<std::unique_ptr<Exchange>> openai_chat(const session::LoadedModel& loaded,
                                                 const text::Json& body, const ApiOptions& options);

}  // namespace longshore::server
