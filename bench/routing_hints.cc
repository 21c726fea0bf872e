#include "bench/routing_hints.h"

#include <algorithm>
#include <numeric>

#include "engine/score.h"

namespace longshore::bench {
namespace {

class Recorder : public model::Observer {
 public:
  Recorder(int64_t first, int64_t layers) : first_(first), routes(static_cast<size_t>(layers)) {}
  void on_routes(int64_t layer, ConstMatrixView ids, ConstMatrixView /*weights*/) override {
    for (int64_t t = 0; t < ids.rows; ++t) {
      const auto* row = ids.row_as<int32_t>(t);
      routes[static_cast<size_t>(layer - first_)].emplace_back(row, row + ids.cols);
    }
  }

 private:
  int64_t first_;

 public:
  Routes routes;
};

std::vector<int32_t> highest_first(std::span<const double> scores) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [scores](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  return order;
}

}  // namespace

Result<PromptRoutes> record_routes(session::LoadedModel& loaded, std::span<const int32_t> ids,
                                   const CancelToken& cancel) {
  const GlmConfig& config = loaded.checkpoint->config();
  Recorder target(config.first_k_dense, loaded.model->experts().experts().layers());
  Recorder draft(config.num_layers, 1);
  LS_TRY(const engine::Scores scores, engine::score(*loaded.model, loaded.layout,
                                                    {.ids = ids,
                                                     .last = 1,
                                                     .chunk = loaded.options.chunk,
                                                     .mtp = &*loaded.mtp,
                                                     .observer = &target,
                                                     .mtp_observer = &draft},
                                                    cancel));
  return PromptRoutes{std::move(target.routes), std::move(draft.routes)};
}

RoutingCounts::RoutingCounts(int64_t layers, int64_t experts)
    : experts_(experts),
      uses_(static_cast<size_t>(layers * experts)),
      with_(static_cast<size_t>(layers)) {}

void RoutingCounts::learn(int64_t layer, std::span<const int32_t> signs,
                          std::span<const int32_t> used) {
  for (const int32_t expert : used) uses_[static_cast<size_t>(layer * experts_ + expert)] += 1;
  for (const int32_t sign : signs) {
    std::vector<double>& counts = with_[static_cast<size_t>(layer)][sign];
    counts.resize(static_cast<size_t>(experts_));
    for (const int32_t expert : used) counts[static_cast<size_t>(expert)] += 1;
  }
}

std::vector<int32_t> RoutingCounts::likeliest(int64_t layer, std::span<const int32_t> signs) const {
  // Where no sign is known, and among equals, by use: less than any sign says.
  std::vector<double> scores(static_cast<size_t>(experts_));
  const double* uses = uses_.data() + layer * experts_;
  const double all_uses = std::max(1.0, std::accumulate(uses, uses + experts_, 0.0));
  for (size_t e = 0; e < scores.size(); ++e) scores[e] = 1e-6 * uses[e] / all_uses;
  const auto& known = with_[static_cast<size_t>(layer)];
  for (const int32_t sign : signs) {
    const auto found = known.find(sign);
    if (found == known.end()) continue;
    const double all = std::accumulate(found->second.begin(), found->second.end(), 0.0);
    for (size_t e = 0; e < scores.size(); ++e) scores[e] += found->second[e] / all;
  }
  return highest_first(scores);
}

std::vector<int32_t> RoutingCounts::most_used(int64_t layer) const {
  return highest_first(std::span(uses_).subspan(static_cast<size_t>(layer * experts_),
                                                static_cast<size_t>(experts_)));
}

}  // namespace longshore::bench
