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
    4;  // up to here tiles are short, to spread one token's rows over many threads
constexpr int64_t kShortTile = 16;
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

// Rows [first, first + count) of w; count <= 64.
[[nodiscard]] Tile weight_tile(const WeightView& w, int64_t first, int64_t count);

// How a weight wants its inputs.
struct InputForm {
  bool pairs = false;
  int64_t segment = 0;
  bool operator==(const InputForm&) const = default;
};
[[nodiscard]] InputForm input_form(const KernelTable& table, const WeightView& w);

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
