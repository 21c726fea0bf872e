#include <algorithm>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cpu {
namespace {

constexpr int64_t kRoutedBytes =
    int64_t{256} << 20;  // the experts' outputs before they are summed, per slab of columns
constexpr int64_t kSumColumns = 1024;
constexpr int64_t kPanelMemory = int64_t{128} << 20;  // of the experts' packed inputs at a time

// Products with the first `in` inputs only. Panels ask for what comes next as it lies in memory,
// where the rest of these rows lies between.
void shorten(Tile* tiles, int64_t count, int64_t in, bool panels) {
  for (int64_t i = 0; i < count; ++i) {
    tiles[i].in = in;
    if (panels) tiles[i].next = nullptr;
  }
}

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

void CpuBackend::plan_experts(const ExpertsParams& p, int32_t begin, int32_t end, bool down,
                              int64_t row_begin, int64_t row_end) {
  items_.clear();
  panel_spans_.clear();
  expert_panels_.clear();
  for (int32_t e = begin; e < end; ++e) expert_panels_.push_back(plan_panels(p, e, down));
  const WeightView& shape = down ? p.shape.down : p.shape.gate;
  item_bounds_.assign(1, 0);
  for (int node = 0; node < pool_.nodes(); ++node) {
    const int64_t first = std::max(row_bound(shape.out, node, pool_.nodes()), row_begin);
    const int64_t last = std::min(row_bound(shape.out, node + 1, pool_.nodes()), row_end);
    for (int32_t e = begin; e < end && first < last; ++e) {
      plan_rows(p, e, expert_panels_[static_cast<size_t>(e - begin)], down, first, last);
    }
    item_bounds_.push_back(static_cast<int64_t>(items_.size()));
  }
}

// The first panel of the expert's routes in panel_spans_, or -1.
int64_t CpuBackend::plan_panels(const ExpertsParams& p, int32_t e, bool down) {
  const int64_t start = expert_start_[static_cast<size_t>(e)];
  const int64_t routes = expert_start_[static_cast<size_t>(e) + 1] - start;
  if (routes == 0) return -1;
  const ExpertView& expert = p.experts[e];
  const WeightView& w = down ? expert.down : expert.gate;
  const InputForm form = input_form(table_, w);
  if (panel_spans_.empty()) panel_form_ = form;
  const bool panels = use_panels(table_, w, routes) && form == panel_form_ &&
                      (down || form == input_form(table_, expert.up));
  if (!panels) return -1;
  const auto panel = static_cast<int64_t>(panel_spans_.size());
  append_panels(start, routes, panel_spans_);
  return panel;
}

void CpuBackend::plan_rows(const ExpertsParams& p, int32_t e, int64_t panel, bool down,
                           int64_t row_begin, int64_t row_end) {
  const int64_t start = expert_start_[static_cast<size_t>(e)];
  const int64_t routes = expert_start_[static_cast<size_t>(e) + 1] - start;
  if (routes == 0) return;
  if (e == p.part.expert && !down) row_end = std::min(row_end, p.part.rows);
  const bool panels = panel >= 0;
  int64_t height = panels ? kTileRows : tile_rows(routes);
  // Gate and up share a product.
  if (panels && routes >= kManyPanels * kPanelInputs) height *= down ? kMostTiles : kMostTiles / 2;
  // Blocks of the same number of inputs, so that the last one is not worth less than its weights'
  // reading.
  const int64_t unit = panels ? kPanelInputs : 1;
  const int64_t units = ceil_div(routes, unit);
  const int64_t blocks = ceil_div(units, panels ? kPanelBlock : kTokenBlock);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = units * block / blocks * unit;
    const int64_t count = std::min(units * (block + 1) / blocks * unit, routes) - first;
    for (int64_t row = row_begin; row < row_end; row += height) {
      items_.push_back({e, static_cast<int32_t>(std::min(height, row_end - row)), row,
                        start + first, count, panels ? panel + first / kPanelInputs : -1});
    }
  }
}

// The experts from `begin` on whose packed inputs fit the memory for them, at least one.
int32_t CpuBackend::expert_slab(const ExpertsParams& p, int32_t begin) const {
  const auto slab = static_cast<int32_t>(p.num_experts);
  if (table_.panel_product == nullptr) return slab;
  const int64_t fit = kPanelMemory / (2 * p.x.cols);
  int64_t inputs = 0;
  for (int32_t e = begin; e < slab; ++e) {
    const int64_t routes =
        expert_start_[static_cast<size_t>(e) + 1] - expert_start_[static_cast<size_t>(e)];
    inputs += ceil_div(routes, kPanelInputs) * kPanelInputs;
    if (inputs > fit && e > begin) return e;
  }
  return slab;
}

void CpuBackend::expert_hidden(const ExpertsParams& p, uint16_t* hidden, int64_t width) {
  const auto experts = static_cast<int32_t>(p.num_experts);
  for (int32_t begin = 0; begin < experts;) {
    const int32_t end = expert_slab(p, begin);
    plan_experts(p, begin, end, /*down=*/false, 0, width);
    expert_hidden_slab(p, hidden, width);
    begin = end;
  }
  if (p.part.expert < 0) return;
  // Products read whole words: behind the part's last column stands 0.
  const auto e = static_cast<size_t>(p.part.expert);
  for (int64_t i = expert_start_[e]; i < expert_start_[e + 1]; ++i)
    std::fill(hidden + i * width + p.part.rows, hidden + (i + 1) * width, 0);
}

void CpuBackend::expert_hidden_slab(const ExpertsParams& p, uint16_t* hidden, int64_t width) {
  // Prepared before the loop: preparing runs a loop of its own.
  for (const ExpertItem& item : items_) {
    const ExpertView& expert = p.experts[item.expert];
    (void)inputs_.rows(pool_, table_, input_form(table_, expert.gate));
    (void)inputs_.rows(pool_, table_, input_form(table_, expert.up));
  }
  if (!panel_spans_.empty()) {
    const void* const* rows = inputs_.rows(pool_, table_, panel_form_);
    panels_.pack(pool_, table_, panel_form_, p.x.cols, panel_spans_,
                 [&](int64_t i) { return rows[routes_[static_cast<size_t>(i)] / p.top_k]; });
  }
  pool_.parallel_for_nodes(
      item_bounds_, grain_of(p.x.cols * kShortTile),
      [&](int64_t begin, int64_t end, int w) {
        for (int64_t i = begin; i < end; ++i) {
          expert_gate_up(p, i, workers_[static_cast<size_t>(w)], hidden, width);
        }
      },
      std::exchange(meanwhile_, nullptr));
}

void CpuBackend::expert_gate_up(const ExpertsParams& p, int64_t index, Worker& worker,
                                uint16_t* hidden, int64_t width) {
  const ExpertItem& item = items_[static_cast<size_t>(index)];
  const ExpertView& expert = p.experts[item.expert];
  const bool last = static_cast<size_t>(index) + 1 == items_.size();
  const ExpertItem& then = items_[static_cast<size_t>(last ? index : index + 1)];
  const void* next_gate = p.experts[then.expert].gate.row(then.row);
  const void* next_up = expert.up.row(item.row);  // read after gate

  const int64_t panels = ceil_div(item.count, kPanelInputs);
  const int64_t tiles = ceil_div(item.rows, kTileRows);
  const int64_t room = item.panel >= 0 ? panels * kPanelInputs : item.count;
  auto* gate = worker.tile.get_as<float>(2 * tiles * room * kTileRows);
  float* up = gate + tiles * room * kTileRows;
  if (item.panel >= 0) {
    Tile parts[kMostTiles];
    weight_tiles(expert.gate, item.row, item.rows, next_up, parts);
    weight_tiles(expert.up, item.row, item.rows, next_gate, parts + tiles);
    const void* inputs = panels_.panel(item.panel);
    if (parts[0].type == parts[tiles].type && parts[0].segment == parts[tiles].segment) {
      table_.panel_product(parts, 2 * tiles, inputs, panels_.panel_bytes(), panels, gate);
    } else {
      table_.panel_product(parts, tiles, inputs, panels_.panel_bytes(), panels, gate);
      table_.panel_product(parts + tiles, tiles, inputs, panels_.panel_bytes(), panels, up);
    }
  } else {
    const auto product = [&](const WeightView& w, const void* next, float* out) {
      const void* const* rows = inputs_.rows(pool_, table_, input_form(table_, w));
      worker.sources.resize(static_cast<size_t>(item.count));
      for (int64_t i = 0; i < item.count; ++i) {
        const int64_t route = routes_[static_cast<size_t>(item.first + i)];
        worker.sources[static_cast<size_t>(i)] = rows[route / p.top_k];
      }
      table_.tile_product(weight_tile(w, item.row, item.rows, next),
                          {worker.sources.data(), item.count}, out);
    };
    product(expert.gate, next_up, gate);
    product(expert.up, next_gate, up);
  }
  worker.targets.resize(static_cast<size_t>(item.count));
  for (int64_t j = 0; j < tiles; ++j) {
    const int64_t row = j * kTileRows;
    for (int64_t i = 0; i < item.count; ++i) {
      worker.targets[static_cast<size_t>(i)] = hidden + (item.first + i) * width + item.row + row;
    }
    table_.silu_mul_tile(gate + row * room, up + row * room, item.count,
                         static_cast<int>(std::min<int64_t>(kTileRows, item.rows - row)),
                         worker.targets.data());
  }
}

void CpuBackend::expert_down(const ExpertsParams& p, float* routed, int64_t column,
                             int64_t columns) {
  plan_experts(p, 0, static_cast<int32_t>(p.num_experts), /*down=*/true, column, column + columns);
  for (const ExpertItem& item : items_) {
    (void)hidden_inputs_.rows(pool_, table_, input_form(table_, p.experts[item.expert].down));
  }
  if (!panel_spans_.empty() && column == 0) {
    const void* const* rows = hidden_inputs_.rows(pool_, table_, panel_form_);
    panels_.pack(pool_, table_, panel_form_, p.experts[items_[0].expert].down.in, panel_spans_,
                 [&](int64_t i) { return rows[i]; });
  }
  const auto count = static_cast<int64_t>(items_.size());
  pool_.parallel_for_nodes(
      item_bounds_, grain_of(p.x.cols * kShortTile), [&](int64_t begin, int64_t end, int w) {
        Worker& worker = workers_[static_cast<size_t>(w)];
        for (int64_t i = begin; i < end; ++i) {
          const ExpertItem& item = items_[static_cast<size_t>(i)];
          const WeightView& down = p.experts[item.expert].down;
          const void* next = nullptr;
          if (i + 1 < count) {
            const ExpertItem& then = items_[static_cast<size_t>(i + 1)];
            next = p.experts[then.expert].down.row(then.row);
          }
          Tile tiles[kMostTiles];
          const int64_t number = weight_tiles(down, item.row, item.rows, next, tiles);
          if (item.expert == p.part.expert) shorten(tiles, number, p.part.rows, item.panel >= 0);
          const int64_t panels = ceil_div(item.count, kPanelInputs);
          const int64_t room = item.panel >= 0 ? panels * kPanelInputs : item.count;
          auto* out = worker.tile.get_as<float>(number * room * kTileRows);
          if (item.panel >= 0) {
            table_.panel_product(tiles, number, panels_.panel(item.panel), panels_.panel_bytes(),
                                 panels, out);
          } else {
            const void* const* rows = hidden_inputs_.rows(pool_, table_, input_form(table_, down));
            table_.tile_product(tiles[0], {rows + item.first, item.count}, out);
          }
          store_tiles(worker, tiles, number, item.count, room, StoreMode::kF32, out,
                      [&](int64_t j) {
                        const int64_t route = routes_[static_cast<size_t>(item.first + j)];
                        return routed + route * columns + item.row - column;
                      });
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
  sort_routes(p);
  if (routes_.empty()) {
    if (p.meanwhile != nullptr) (*p.meanwhile)();
    return;
  }
  meanwhile_ = p.meanwhile;
  const int64_t width = p.shape.gate.out;

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
