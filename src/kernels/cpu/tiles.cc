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

Tile weight_tile(const WeightView& w, int64_t first, int64_t count) {
  const bool fp8 = w.dtype == DType::kF8E4M3;
  Tile tile;
  tile.count = static_cast<int>(count);
  tile.type = row_type(w.dtype);
  tile.in = w.in;
  tile.segment = fp8 ? std::min<int64_t>(w.block_cols, w.in) : w.in;
  for (int64_t r = 0; r < count; ++r) {
    tile.rows[r] = w.row(first + r);
    tile.scales[r] = fp8 ? scale_row(w, first + r) : nullptr;
  }
  return tile;
}

InputForm input_form(const KernelTable& table, const WeightView& w) {
  const bool fp8 = w.dtype == DType::kF8E4M3;
  const bool ragged = fp8 && w.block_cols < w.in && w.block_cols % kInputPad != 0;
  return {table.pairs && (fp8 || w.dtype == DType::kBF16), ragged ? w.block_cols : w.in};
}

void PreparedInputs::set(const std::vector<const void*>& sources, DType dtype, int64_t width) {
  sources_ = &sources;
  is_bf16_ = dtype == DType::kBF16;
  width_ = width;
  for (Entry& entry : entries_) entry.valid = false;
}

const void* const* PreparedInputs::rows(ThreadPool& pool, const KernelTable& table,
                                        InputForm form) {
  if (form.pairs && is_bf16_ && form.segment == width_ && width_ % kInputPad == 0) {
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
  const int64_t segments = ceil_div(width_, entry.form.segment);
  const int64_t last = width_ - (segments - 1) * entry.form.segment;
  const int64_t padded = (segments - 1) * padded_segment(entry.form.segment) + padded_segment(last);
  const int64_t bytes = padded * (entry.form.pairs ? 2 : 4);
  std::byte* memory = entry.memory.get(count * bytes);
  entry.rows.resize(sources_->size());
  entry.valid = true;
  pool.parallel_for(count, grain_of(width_), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<size_t>(i);
      entry.rows[index] = memory + i * bytes;
      table.prepare((*sources_)[index], is_bf16_, width_, entry.form.segment, entry.form.pairs,
                    memory + i * bytes);
    }
  });
}

}  // namespace longshore::kernels::cpu
