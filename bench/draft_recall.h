// Would the draft's routing be worth bringing experts for? How many of a token's experts one would
// have foreseen, layer by layer, from what is known before the target sees the token.
#pragma once

#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "bench/speculation_prompts.h"
#include "session/loaded_model.h"

namespace longshore::bench {

// A guess names as many experts as a token uses. Recall of a layer by: the experts that the draft's
// layer chose for the token's guess, through counts of which experts of the layer went with which
// of the draft's; the experts of the token before it; the layer's most used ones. Counts are
// learned on the first half of the prompts and judged on the other. The model has an MTP layer and
// experts.
Result<Report> draft_recall(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                            const CancelToken& cancel);

}  // namespace longshore::bench
