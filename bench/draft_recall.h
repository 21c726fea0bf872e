// Would the draft's routing be worth bringing experts for? What it tells of a token's experts
// before the target sees the token, layer by layer, and what bringing experts ahead on it comes to.
#pragma once

#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "bench/speculation_prompts.h"
#include "session/loaded_model.h"

namespace longshore::bench {

// Counts are learned on the first half of each set's prompts and judged on the other.
//
// Recall of a layer, where a guess names as many experts as a token uses, by: the experts that the
// draft's layer chose for the token's guess, through counts of which experts of the layer went with
// which of the draft's; the token's id, likewise; both together; the experts of the token before
// it; the layer's most used ones.
//
// Then a replay (PrefetchReplay) of the second half, token by token, with 0, 15 and 50 % of the
// experts in slots, where 1, 2 or 4 missing experts of each layer are brought ahead by each of
// these, by the cache's own worth of experts, and by an oracle: of the missing experts, those that
// were brought; of those brought, those that were missing; hits; experts brought. And with the
// costs of GLM-5.1, where only what the wire has time for is brought: speed, of the same replay
// with nothing brought. The model has an MTP layer and experts.
Result<Report> draft_recall(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                            const CancelToken& cancel);

}  // namespace longshore::bench
