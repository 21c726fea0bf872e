#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cpu {
namespace {

constexpr int64_t kRoutedBytes =
    int64_t{64} << 20;  // the experts' outputs before they are summed, per slab of columns
constexpr int64_t kSumColumns = 1024;

}  // namespace

void CpuBackend::router(const RouterParams& p) {
  validate(p);
  scalar::router(pool_, p);
}

void CpuBackend::sort_routes(const ExpertsParams& p) {
  const int64_t count = p.x.rows * p.top_k;
  expert_start_.assign(static_cast<size_t>(p.num_experts) + 1, 0);
  for (int64_t r = 0; r < count; ++r) {
    if (p.ids[r] >= 0) ++expert_start_[static_cast<size_t>(p.ids[r]) + 1];
  }
  for (size_t e = 1; e < expert_start_.size(); ++e) expert_start_[e] += expert_start_[e - 1];
  routes_.resize(static_cast<size_t>(expert_start_.back()));
  for (int64_t r = 0; r < count; ++r) {
    if (p.ids[r] >= 0) {
      routes_[static_cast<size_t>(expert_start_[static_cast<size_t>(p.ids[r])]++)] = r;
    }
  }
  for (size_t e = expert_start_.size() - 1; e > 0; --e) expert_start_[e] = expert_start_[e - 1];
  expert_start_[0] = 0;
}

void CpuBackend::plan_experts(const ExpertsParams& p, int64_t row_begin, int64_t row_end) {
  items_.clear();
  for (int32_t e = 0; e < p.num_experts; ++e) {
    const int64_t start = expert_start_[static_cast<size_t>(e)];
    const int64_t end = expert_start_[static_cast<size_t>(e) + 1];
    const int64_t height = tile_rows(end - start);
    for (int64_t first = start; first < end; first += kTokenBlock) {
      for (int64_t row = row_begin; row < row_end; row += height) {
        items_.push_back({e, static_cast<int32_t>(std::min(height, row_end - row)), row, first,
                          std::min(kTokenBlock, end - first)});
      }
    }
  }
}

void CpuBackend::expert_hidden(const ExpertsParams& p, uint16_t* hidden, int64_t width) {
  plan_experts(p, 0, width);
  // Prepared before the loop: preparing runs a loop of its own.
  for (const ExpertItem& item : items_) {
    const ExpertView& expert = p.experts[item.expert];
    (void)inputs_.rows(pool_, table_, input_form(table_, expert.gate));
    (void)inputs_.rows(pool_, table_, input_form(table_, expert.up));
  }
  const auto product = [&](Worker& worker, const WeightView& w, const ExpertItem& item,
                           float* out) {
    const InputForm form = input_form(table_, w);
    const void* const* rows = inputs_.rows(pool_, table_, form);
    worker.sources.resize(static_cast<size_t>(item.count));
    for (int64_t i = 0; i < item.count; ++i) {
      const int64_t route = routes_[static_cast<size_t>(item.first + i)];
      worker.sources[static_cast<size_t>(i)] = rows[route / p.top_k];
    }
    table_.tile_product(weight_tile(w, item.row, item.rows),
                        {worker.sources.data(), item.count, form.pairs}, out);
  };
  const auto count = static_cast<int64_t>(items_.size());
  pool_.parallel_for(
      count, grain_of(p.x.cols * kShortTile), [&](int64_t begin, int64_t end, int w) {
        Worker& worker = workers_[static_cast<size_t>(w)];
        for (int64_t i = begin; i < end; ++i) {
          const ExpertItem& item = items_[static_cast<size_t>(i)];
          auto* gate = worker.tile.get_as<float>(item.count * kTileRows);
          auto* up = worker.second.get_as<float>(item.count * kTileRows);
          product(worker, p.experts[item.expert].gate, item, gate);
          product(worker, p.experts[item.expert].up, item, up);
          worker.targets.resize(static_cast<size_t>(item.count));
          for (int64_t j = 0; j < item.count; ++j) {
            worker.targets[static_cast<size_t>(j)] = hidden + (item.first + j) * width + item.row;
          }
          table_.silu_mul_tile(gate, up, item.count, item.rows, worker.targets.data());
        }
      });
}

void CpuBackend::expert_down(const ExpertsParams& p, float* routed, int64_t column,
                             int64_t columns) {
  plan_experts(p, column, column + columns);
  for (const ExpertItem& item : items_) {
    (void)hidden_inputs_.rows(pool_, table_, input_form(table_, p.experts[item.expert].down));
  }
  const auto count = static_cast<int64_t>(items_.size());
  pool_.parallel_for(
      count, grain_of(p.x.cols * kShortTile), [&](int64_t begin, int64_t end, int w) {
        Worker& worker = workers_[static_cast<size_t>(w)];
        for (int64_t i = begin; i < end; ++i) {
          const ExpertItem& item = items_[static_cast<size_t>(i)];
          const WeightView& down = p.experts[item.expert].down;
          const InputForm form = input_form(table_, down);
          const void* const* rows = hidden_inputs_.rows(pool_, table_, form);
          auto* out = worker.tile.get_as<float>(item.count * kTileRows);
          table_.tile_product(weight_tile(down, item.row, item.rows),
                              {rows + item.first, item.count, form.pairs}, out);
          worker.targets.resize(static_cast<size_t>(item.count));
          for (int64_t j = 0; j < item.count; ++j) {
            const int64_t route = routes_[static_cast<size_t>(item.first + j)];
            worker.targets[static_cast<size_t>(j)] = routed + route * columns + item.row - column;
          }
          table_.store_tile(out, item.count, item.rows, StoreMode::kF32, worker.targets.data());
        }
      });
}

void CpuBackend::add_routes(const ExpertsParams& p, const float* routed, int64_t column,
                            int64_t columns) {
  const int64_t parts = ceil_div(columns, kSumColumns);
  pool_.parallel_for(p.x.rows * parts, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t t = item / parts;
      const int64_t first = item % parts * kSumColumns;
      const int64_t n = std::min(kSumColumns, columns - first);
      for (int64_t r = t * p.top_k; r < (t + 1) * p.top_k; ++r) {
        if (p.ids[r] < 0) continue;
        table_.add_scaled(routed + r * columns + first, p.weights[r], n,
                          p.y.row_as<float>(t) + column + first);
      }
    }
  });
}

void CpuBackend::experts(const ExpertsParams& p) {
  validate(p);
  if (p.x.rows * p.top_k == 0) return;
  sort_routes(p);
  if (routes_.empty()) return;
  const int64_t width = p.experts[p.ids[routes_[0]]].gate.out;

  sources_.resize(static_cast<size_t>(p.x.rows));
  for (int64_t t = 0; t < p.x.rows; ++t) sources_[static_cast<size_t>(t)] = p.x.row(t);
  inputs_.set(sources_, p.x.dtype, p.x.cols);
  const auto used = static_cast<int64_t>(routes_.size());
  auto* hidden = hidden_.get_as<uint16_t>(used * width);
  expert_hidden(p, hidden, width);

  hidden_sources_.resize(routes_.size());
  for (int64_t i = 0; i < used; ++i) hidden_sources_[static_cast<size_t>(i)] = hidden + i * width;
  hidden_inputs_.set(hidden_sources_, DType::kBF16, width);
  const int64_t route_count = p.x.rows * p.top_k;
  const int64_t fit = kRoutedBytes / (route_count * 4) / kTileRows * kTileRows;
  const int64_t slab =
      std::clamp<int64_t>(fit, kTileRows, ceil_div(p.x.cols, kTileRows) * kTileRows);
  for (int64_t column = 0; column < p.x.cols; column += slab) {
    const int64_t columns = std::min(slab, p.x.cols - column);
    auto* routed = routed_.get_as<float>(route_count * columns);
    expert_down(p, routed, column, columns);
    add_routes(p, routed, column, columns);
  }
}

}  // namespace longshore::kernels::cpu
