#include "model/step_graphs.h"

#include <algorithm>

namespace longshore::model {
namespace {

constexpr int64_t kAutoRows = 32;
constexpr int64_t kAutoDraftRows = 64;  // where sequences bring guesses

int64_t pages_of(int64_t positions) {
  return (positions + kernels::kPageTokens - 1) / kernels::kPageTokens;
}

// Below 8 every count where there are guesses: a sequence alone brings 1 + as many as pay.
std::vector<int64_t> row_counts(const GraphOptions& options, int64_t most, bool drafts) {
  std::vector<int64_t> rows = options.rows;
  if (rows.empty()) {
    for (int64_t r = 1; r < most; r = r >= 8 ? r + 8 : drafts ? r + 1 : 2 * r) rows.push_back(r);
    rows.push_back(most);
  }
  std::erase_if(rows, [most](int64_t r) { return r < 1 || r > most; });
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

const std::byte* place(std::span<const LayerCache> caches) {
  return caches.empty() ? nullptr : caches.front().latent.data;
}

}  // namespace

std::vector<StepShape> step_shapes(const GlmConfig& config, const StepLimits& limits,
                                   const GraphOptions& options) {
  if (!options.on) return {};
  const int64_t possible = std::min(limits.sequences * (1 + limits.drafts), limits.tokens);
  const int64_t automatic = limits.drafts > 0 ? kAutoDraftRows : kAutoRows;
  const int64_t most = std::min(possible, options.max_rows > 0   ? options.max_rows
                                          : options.rows.empty() ? automatic
                                                                 : possible);
  const int64_t longest = pages_of(limits.context > 0 ? limits.context : config.max_positions);
  std::vector<StepShape> shapes;
  for (const int64_t rows : row_counts(options, most, limits.drafts > 0)) {
    for (int64_t pages = std::max<int64_t>(config.index_top_k / kernels::kPageTokens, 1);;
         pages *= 2) {
      shapes.push_back({rows, std::min(pages, longest)});
      if (pages >= longest) break;
    }
  }
  return shapes;
}

StepGraphs::StepGraphs(device::Graphs& graphs, std::span<const LayerCache> caches)
    : graphs_(graphs), caches_(place(caches)) {}

StepGraphs::~StepGraphs() {
  for (const Step& step : steps_) graphs_.drop(step.id);
}

device::Graphs* StepGraphs::of(kernels::Backend& backend) {
  return dynamic_cast<device::Graphs*>(&backend);
}

Result<void> StepGraphs::capture(const StepShape& shape, const std::function<void()>& queue) {
  LS_CHECK(steps_.empty() || steps_.back().shape.rows < shape.rows ||
           (steps_.back().shape.rows == shape.rows && steps_.back().shape.pages < shape.pages));
  graphs_.begin_capture();
  queue();
  LS_TRY(const device::Graphs::Id id, graphs_.end_capture());
  steps_.push_back({shape, id});
  return {};
}

const StepGraphs::Step* StepGraphs::find(const StepInput& input, int64_t longest_context) const {
  if (place(input.caches) != caches_ || input.observer != nullptr || input.logit_rows.empty())
    return nullptr;
  const int64_t rows = std::max(
      {input.batch.tokens, input.batch.sequences, static_cast<int64_t>(input.logit_rows.size())});
  const int64_t pages = pages_of(longest_context);
  const auto found = std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) {
    return step.shape.rows >= rows && step.shape.pages >= pages;
  });
  return found == steps_.end() ? nullptr : &*found;
}

}  // namespace longshore::model
