#include "kernels/cpu/tiles.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/format/block_scale.h"

namespace longshore::kernels::cpu {
namespace {

RowType row_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return RowType::kF32;
    case DType::kBF16:
      return RowType::kBF16;
    case DType::kF16:
      return RowType::kF16;
    case DType::kF8E4M3:
      return RowType::kFp8;
    default:
      LS_FAIL("{} is no weight", dtype_name(dtype));
  }
}

}  // namespace

Tile weight_tile(const WeightView& w, int64_t first, int64_t count, const void* next) {
  const bool fp8 = w.dtype == DType::kF8E4M3;
  Tile tile;
  tile.count = static_cast<int>(count);
  tile.type = row_type(w.dtype);
  tile.in = w.in;
  tile.next = next;
  tile.next_stride = w.in * dtype_size(w.dtype);
  tile.segment = fp8 ? std::min<int64_t>(w.block_cols, w.in) : w.in;
  for (int64_t r = 0; r < count; ++r) {
    tile.rows[r] = w.row(first + r);
    tile.scales[r] = fp8 ? scale_row(w, first + r) : nullptr;
  }
  return tile;
}

int64_t weight_tiles(const WeightView& w, int64_t first, int64_t count, const void* next,
                     Tile* tiles) {
  int64_t number = 0;
  for (int64_t row = 0; row < count; row += kTileRows) {
    const int64_t rows = std::min<int64_t>(kTileRows, count - row);
    tiles[number++] =
        weight_tile(w, first + row, rows, row + rows < count ? w.row(first + row + rows) : next);
  }
  return number;
}

RowItems::RowItems(const ThreadPool& pool, int64_t rows, int64_t height, int64_t blocks)
    : height_(height), bounds_{0} {
  for (int node = 0; node <= pool.nodes(); ++node) {
    row_bounds_.push_back(row_bound(rows, node, pool.nodes()));
    if (node == 0) continue;
    const int64_t here = row_bounds_.back() - row_bounds_[static_cast<size_t>(node) - 1];
    bounds_.push_back(bounds_.back() + ceil_div(here, height) * blocks);
  }
}

RowItems::Item RowItems::at(int64_t item) const {
  size_t node = 0;
  while (item >= bounds_[node + 1]) ++node;
  const int64_t first = row_bounds_[node];
  const int64_t end = row_bounds_[node + 1];
  const int64_t tiles = ceil_div(end - first, height_);
  item -= bounds_[node];
  const int64_t row = first + item % tiles * height_;
  return {row, std::min(height_, end - row), item / tiles};
}

InputForm input_form(const KernelTable& table, const WeightView& w) {
  const bool fp8 = w.dtype == DType::kF8E4M3;
  const bool ragged = fp8 && w.block_cols < w.in && w.block_cols % kInputPad != 0;
  const bool narrow = fp8 || w.dtype == DType::kBF16;
  return {narrow ? table.narrow : InputKind::kF32, ragged ? w.block_cols : w.in};
}

int64_t padded_width(int64_t width, int64_t segment) {
  const int64_t segments = ceil_div(width, segment);
  const int64_t last = width - (segments - 1) * segment;
  return (segments - 1) * padded_segment(segment) + padded_segment(last);
}

bool use_panels(const KernelTable& table, const WeightView& w, int64_t inputs) {
  return table.panel_product != nullptr && inputs >= kFewestPanelInputs &&
         input_form(table, w).kind == InputKind::kPairs;
}

void append_panels(int64_t first, int64_t count, std::vector<PanelSpan>& spans) {
  for (int64_t i = 0; i < count; i += kPanelInputs) {
    spans.push_back({first + i, std::min(kPanelInputs, count - i)});
  }
}

void PreparedInputs::set(const std::vector<const void*>& sources, DType dtype, int64_t width) {
  sources_ = &sources;
  is_bf16_ = dtype == DType::kBF16;
  width_ = width;
  for (Entry& entry : entries_) entry.valid = false;
}

const void* const* PreparedInputs::rows(ThreadPool& pool, const KernelTable& table,
                                        InputForm form) {
  if (form.kind == InputKind::kPairs && is_bf16_ && form.segment == width_ &&
      width_ % kInputPad == 0) {
    return sources_->data();
  }
  for (Entry& entry : entries_) {
    if (entry.valid && entry.form == form) return entry.rows.data();
  }
  Entry* free = nullptr;
  for (Entry& entry : entries_) {
    if (!entry.valid && free == nullptr) free = &entry;
  }
  if (free == nullptr) free = &entries_.emplace_back();
  free->form = form;
  fill(pool, table, *free);
  return free->rows.data();
}

void PreparedInputs::fill(ThreadPool& pool, const KernelTable& table, Entry& entry) {
  const auto count = static_cast<int64_t>(sources_->size());
  const int64_t padded = padded_width(width_, entry.form.segment);
  const int64_t bytes = padded * input_size(entry.form.kind);
  std::byte* memory = entry.memory.get(count * bytes);
  entry.rows.resize(sources_->size());
  entry.valid = true;
  pool.parallel_for(count, grain_of(width_), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<size_t>(i);
      entry.rows[index] = memory + i * bytes;
      table.prepare((*sources_)[index], is_bf16_, width_, entry.form.segment, entry.form.kind,
                    memory + i * bytes);
    }
  });
}

}  // namespace longshore::kernels::cpu
