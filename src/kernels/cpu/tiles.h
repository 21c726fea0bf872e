// Weights and activations as tile products take them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "base/threads.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/scratch.h"

namespace longshore::kernels::cpu {

constexpr int64_t kTokenBlock =
    240;  // inputs of one tile product: they stay in the second-level cache
constexpr int64_t kFewInputs =
    6;  // up to here tiles are short, to spread one token's rows over many threads
constexpr int64_t kShortTile = 16;
constexpr int64_t kFewestPanelInputs =
    3;  // from here on panels pay, where the instruction set has them
constexpr int64_t kPanelBlock =
    32;  // most panels of one panel product: a widened weight is used for 512 inputs
constexpr int64_t kManyPanels = 8;  // from here on the inputs of a panel product exceed the
                                    // second-level cache: it takes more rows
constexpr int64_t kMinWork =
    1 << 16;  // multiply-adds below which handing a piece to another thread does not pay

[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
[[nodiscard]] constexpr int64_t tile_rows(int64_t inputs) {
  return inputs <= kFewInputs ? kShortTile : kTileRows;
}
// Items of `work` multiply-adds each that make a piece for a thread.
[[nodiscard]] constexpr int64_t grain_of(int64_t work) {
  return work >= kMinWork ? 1 : kMinWork / (work + 1) + 1;
}

// Rows [first, first + count) of w; count <= 64. next: what will probably be read after them, or
// null.
[[nodiscard]] Tile weight_tile(const WeightView& w, int64_t first, int64_t count, const void* next);

// Rows [first, first + count) of w as tiles of 64, count <= 64 * kMostTiles; returns how many. next
// as above.
int64_t weight_tiles(const WeightView& w, int64_t first, int64_t count, const void* next,
                     Tile* tiles);

// The rows of a matrix in tiles of `height`, times `blocks` of inputs: items in the order in which
// they are computed, by node of the rows' memory, then by block, then by row. No tile crosses
// nodes.
class RowItems {
 public:
  RowItems(const ThreadPool& pool, int64_t rows, int64_t height, int64_t blocks);

  struct Item {
    int64_t row;
    int64_t rows;
    int64_t block;
  };
  // For ThreadPool::parallel_for_nodes.
  [[nodiscard]] const std::vector<int64_t>& bounds() const { return bounds_; }
  [[nodiscard]] Item at(int64_t item) const;

 private:
  int64_t height_;
  std::vector<int64_t> bounds_;      // [nodes + 1] items
  std::vector<int64_t> row_bounds_;  // [nodes + 1]
};

// How a weight wants its inputs.
struct InputForm {
  InputKind kind = InputKind::kF32;
  int64_t segment = 0;
  bool operator==(const InputForm&) const = default;
};
[[nodiscard]] InputForm input_form(const KernelTable& table, const WeightView& w);
// Elements of a prepared row of `width` elements.
[[nodiscard]] int64_t padded_width(int64_t width, int64_t segment);
// Whether `inputs` inputs go through panels.
[[nodiscard]] bool use_panels(const KernelTable& table, const WeightView& w, int64_t inputs);

// A run of neighbouring inputs, at most kPanelInputs, that make one panel.
struct PanelSpan {
  int64_t first = 0;
  int64_t count = 0;
};
// Appends the panels of inputs [first, first + count).
void append_panels(int64_t first, int64_t count, std::vector<PanelSpan>& spans);

// Inputs packed for panel products.
//
// Threading: pack() between loops, from the calling thread; the panels may be read by all.
class Panels {
 public:
  // row(i): input i of the spans, prepared in `form` from `width` elements. Valid until the next
  // pack().
  template <typename Row>
  void pack(ThreadPool& pool, const KernelTable& table, InputForm form, int64_t width,
            const std::vector<PanelSpan>& spans, Row row) {
    const int64_t padded = padded_width(width, form.segment);
    bytes_ = padded * 2 * kPanelInputs;
    const auto count = static_cast<int64_t>(spans.size());
    data_ = memory_.get(count * bytes_);
    pool.parallel_for(count, grain_of(width * kPanelInputs), [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p) {
        const PanelSpan& span = spans[static_cast<size_t>(p)];
        const void* rows[kPanelInputs];
        for (int64_t i = 0; i < span.count; ++i) rows[i] = row(span.first + i);
        table.pack_panel(rows, span.count, padded, data_ + p * bytes_);
      }
    });
  }
  [[nodiscard]] const void* panel(int64_t index) const { return data_ + index * bytes_; }
  [[nodiscard]] int64_t panel_bytes() const { return bytes_; }

 private:
  Scratch memory_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One set of activation rows in each of the forms that a call's weights want.
//
// Threading: set() and rows() between loops, from the calling thread; what rows() returned may be
// read by all.
class PreparedInputs {
 public:
  // sources: `count` rows of `width` elements, fp32 or bf16; they stay valid while rows() is used.
  void set(const std::vector<const void*>& sources, DType dtype, int64_t width);
  // [count] prepared rows, valid until the next set().
  [[nodiscard]] const void* const* rows(ThreadPool& pool, const KernelTable& table, InputForm form);

 private:
  struct Entry {
    InputForm form;
    bool valid = false;
    Scratch memory;
    std::vector<const void*> rows;
  };
  void fill(ThreadPool& pool, const KernelTable& table, Entry& entry);

  const std::vector<const void*>* sources_ = nullptr;
  bool is_bf16_ = false;
  int64_t width_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace longshore::kernels::cpu
