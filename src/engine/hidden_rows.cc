#include "engine/hidden_rows.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace longshore::engine {

Result<std::unique_ptr<HiddenRows>> HiddenRows::create(kernels::Backend& backend, int64_t width,
                                                       int64_t most, int64_t ring_bytes) {
  const int64_t capacity = model::KeptHidden::of(width, most, ring_bytes).rows;
  std::unique_ptr<HiddenRows> made(new HiddenRows(backend, capacity, most));
  LS_TRY(made->rows_, device::Buffer::allocate(backend.memory(), (capacity + most) * width * 4,
                                               "hidden states for the draft"));
  LS_TRY(made->count_,
         device::Buffer::allocate(backend.memory(), most * 4, "numbers of hidden states"));
  std::vector<int32_t> numbers(static_cast<size_t>(most));
  std::iota(numbers.begin(), numbers.end(), 0);
  LS_TRY_VOID(backend.memory().upload(made->count_.data(), numbers.data(), most * 4));
  made->view_ = {made->rows_.data(), DType::kF32, capacity + most, width, width};
  return made;
}

int64_t HiddenRows::append(ConstMatrixView hidden) {
  LS_CHECK(hidden.rows >= 1 && hidden.rows <= most_ && hidden.cols == view_.cols);
  const int64_t first = next_;
  const auto* numbers = reinterpret_cast<const int32_t*>(count_.data());
  const int64_t until_end = std::min(hidden.rows, capacity_ - first % capacity_);
  backend_->gather_rows(
      {.x = hidden, .rows = numbers, .y = view_.slice_rows(first % capacity_, until_end)});
  if (until_end < hidden.rows) {
    backend_->gather_rows({.x = hidden,
                           .rows = numbers + until_end,
                           .y = view_.slice_rows(0, hidden.rows - until_end)});
  }
  next_ += hidden.rows;
  return first;
}

Result<void> HiddenRows::copy_to(int64_t from, int64_t to, std::vector<float>& host) const {
  LS_CHECK(from >= lowest_after(0) && from <= to && to <= next_);
  while (from < to) {
    const int64_t count = std::min(to - from, capacity_ - from % capacity_);
    const size_t before = host.size();
    host.resize(before + static_cast<size_t>(count * view_.cols));
    const MatrixView rows = view_.slice_rows(from % capacity_, count);
    LS_TRY_VOID(
        backend_->memory().download(host.data() + before, rows.data, count * view_.cols * 4));
    from += count;
  }
  return {};
}

int32_t HiddenRows::stage(int64_t i, const float* host) {
  LS_CHECK(i >= 0 && i < most_);
  const MatrixView row = view_.slice_rows(capacity_ + i, 1);
  backend_->copy_ints(reinterpret_cast<const int32_t*>(host), view_.cols, row.row_as<int32_t>(0));
  return static_cast<int32_t>(capacity_ + i);
}

}  // namespace longshore::engine
