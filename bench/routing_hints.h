// What tells something of a token's experts before the target sees it: routes of target and draft
// over whole prompts, and counts of what goes together in them.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "session/loaded_model.h"

namespace longshore::bench {

// [layer][position][of a token's experts]
using Routes = std::vector<std::vector<std::vector<int32_t>>>;

struct PromptRoutes {
  Routes target;  // of MoE layers, from 0
  Routes draft;   // one layer; row t has read the token t + 1, which the target sees after it
};

// The model has an MTP layer and experts. As engine::score().
Result<PromptRoutes> record_routes(session::LoadedModel& loaded, std::span<const int32_t> ids,
                                   const CancelToken& cancel);

// Which experts of a layer go with each of some signs (experts of the draft, ids), and how often
// each is used at all.
class RoutingCounts {
 public:
  RoutingCounts(int64_t layers, int64_t experts);
  // signs: of the token that used these experts, not negative.
  void learn(int64_t layer, std::span<const int32_t> signs, std::span<const int32_t> used);
  // Of experts [experts] of the layer, likeliest first: the part of the uses with each sign that
  // was each expert's, summed over the signs.
  [[nodiscard]] std::vector<int32_t> likeliest(int64_t layer, std::span<const int32_t> signs) const;
  // By use alone.
  [[nodiscard]] std::vector<int32_t> most_used(int64_t layer) const;

 private:
  int64_t experts_;
  std::vector<double> uses_;                                            // [layers, experts]
  std::vector<std::unordered_map<int32_t, std::vector<double>>> with_;  // [layers] sign: [experts]
};

}  // namespace longshore::bench
