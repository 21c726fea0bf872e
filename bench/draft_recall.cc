#include "bench/draft_recall.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "engine/score.h"

namespace longshore::bench {
namespace {

// [layer][position][of a token's experts]
using Routes = std::vector<std::vector<std::vector<int32_t>>>;

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

// Which experts of a layer go with each of the draft's, and how often each is used at all.
class Counts {
 public:
  Counts(size_t layers, size_t experts)
      : experts_(experts), with_(layers * experts * experts), uses_(layers * experts) {}

  void learn(size_t layer, const std::vector<int32_t>& drafts, const std::vector<int32_t>& used) {
    for (const int32_t expert : used) {
      uses_[layer * experts_ + static_cast<size_t>(expert)] += 1;
      for (const int32_t hint : drafts) cell(layer, hint, expert) += 1;
    }
  }
  [[nodiscard]] std::vector<int32_t> by_draft(size_t layer,
                                              const std::vector<int32_t>& drafts) const {
    std::vector<double> scores(experts_);
    for (const int32_t hint : drafts) {
      const double* row = with_.data() + (layer * experts_ + static_cast<size_t>(hint)) * experts_;
      const double all = std::max(1.0, std::accumulate(row, row + experts_, 0.0));
      for (size_t e = 0; e < experts_; ++e) scores[e] += row[e] / all;
    }
    return highest(scores.data(), drafts.size());
  }
  [[nodiscard]] std::vector<int32_t> by_use(size_t layer, size_t count) const {
    return highest(uses_.data() + layer * experts_, count);
  }

 private:
  double& cell(size_t layer, int32_t hint, int32_t expert) {
    return with_[(layer * experts_ + static_cast<size_t>(hint)) * experts_ +
                 static_cast<size_t>(expert)];
  }
  [[nodiscard]] std::vector<int32_t> highest(const double* scores, size_t count) const {
    std::vector<int32_t> order(experts_);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count),
                      order.end(),
                      [scores](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    order.resize(count);
    return order;
  }

  size_t experts_;
  std::vector<double> with_;  // [layers, experts of the draft, experts]
  std::vector<double> uses_;  // [layers, experts]
};

struct Recall {
  int64_t wanted = 0;
  int64_t draft = 0;
  int64_t before = 0;
  int64_t popular = 0;
};

int64_t found(const std::vector<int32_t>& used, const std::vector<int32_t>& foreseen) {
  return std::count_if(used.begin(), used.end(), [&](int32_t expert) {
    return std::find(foreseen.begin(), foreseen.end(), expert) != foreseen.end();
  });
}

}  // namespace

Result<Report> draft_recall(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                            const CancelToken& cancel) {
  const GlmConfig& config = loaded.checkpoint->config();
  const offload::HostExperts& experts = loaded.model->experts().experts();
  if (experts.size() == 0) return fail(ErrorKind::kUsage, "--recall: there are no experts");
  const auto layers = static_cast<size_t>(experts.layers());
  Report report{.bench = "draft recall",
                .machine = machine_name(loaded.pool->size()),
                .ceilings = {},
                .rows = {}};
  for (const PromptSet& set : sets) {
    Counts counts(layers, static_cast<size_t>(experts.per_layer()));
    std::vector<Recall> recall(layers);
    for (size_t i = 0; i < set.prompts.size(); ++i) {
      Recorder target(config.first_k_dense, experts.layers());
      Recorder draft(config.num_layers, 1);
      LS_TRY(const engine::Scores scores, engine::score(*loaded.model, loaded.layout,
                                                        {.ids = set.prompts[i],
                                                         .last = 1,
                                                         .chunk = loaded.options.chunk,
                                                         .mtp = &*loaded.mtp,
                                                         .observer = &target,
                                                         .mtp_observer = &draft},
                                                        cancel));
      // The draft's row t has read token t + 1, which the target sees after it.
      for (size_t layer = 0; layer < layers; ++layer) {
        for (size_t t = 0; t + 1 < target.routes[layer].size(); ++t) {
          const std::vector<int32_t>& hint = draft.routes[0][t];
          const std::vector<int32_t>& used = target.routes[layer][t + 1];
          if (i < set.prompts.size() / 2) {
            counts.learn(layer, hint, used);
            continue;
          }
          Recall& r = recall[layer];
          r.wanted += static_cast<int64_t>(used.size());
          r.draft += found(used, counts.by_draft(layer, hint));
          r.before += found(used, target.routes[layer][t]);
          r.popular += found(used, counts.by_use(layer, used.size()));
        }
      }
    }
    for (size_t layer = 0; layer < layers; ++layer) {
      const auto row = [&](const char* what, int64_t n) {
        report.rows.push_back(
            {fmt::format("{}, layer {}: foreseen by {}", set.name,
                         config.first_k_dense + static_cast<int64_t>(layer), what),
             static_cast<double>(n) /
                 static_cast<double>(std::max<int64_t>(recall[layer].wanted, 1)),
             "", 0});
      };
      row("the draft's routing", recall[layer].draft);
      row("the token before", recall[layer].before);
      row("use alone", recall[layer].popular);
    }
  }
  return report;
}

}  // namespace longshore::bench
