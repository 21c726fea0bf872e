// Refuses text that cannot fit the context whatever its tokens are, before it is tokenised.
//
// Threading: free functions without state.
#pragma once

#include <string_view>

#include "server/api/fields.h"
#include "session/loaded_model.h"

namespace longshore::server {

// False, with a fault (400 context_length_exceeded) that names the field: even if every token were
// the vocabulary's longest, the text had more than the context holds.
bool may_fit_context(const session::LoadedModel& loaded, std::string_view text, const char* field,
                     Fault& fault);

}  // namespace longshore::server
