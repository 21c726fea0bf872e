#include "model/tap.h"

namespace longshore::model {

Result<void> fetch(kernels::Backend& backend, const ConstMatrixView& from, const MatrixView& to) {
  LS_CHECK(from.dtype == to.dtype && from.rows == to.rows && from.cols == to.cols);
  LS_CHECK(from.rows <= 1 || (from.stride == from.cols && to.stride == to.cols));
  LS_TRY_VOID(backend.synchronize());
  return backend.memory().download(to.data, from.data,
                                   from.rows * from.cols * dtype_size(from.dtype));
}

bool Tap::keep(const Result<void>& result) {
  if (!result && !fault_) fault_ = result.error();
  return !fault_;
}

bool Tap::fetch(ConstMatrixView m, std::vector<std::byte>& to, ConstMatrixView& copy) {
  copy = m;
  if (backend_->memory().host()) return true;
  to.resize(static_cast<size_t>(m.rows * m.cols * dtype_size(m.dtype)));
  const MatrixView host{to.data(), m.dtype, m.rows, m.cols, m.cols};
  copy = host;
  return keep(model::fetch(*backend_, m, host));
}

void Tap::hidden(int64_t layer, ConstMatrixView x) {
  if (observer_ == nullptr || fault_) return;
  if (fetch(x, first_, x)) observer_->on_hidden(layer, x);
}

MatrixView Tap::score_buffer(int64_t layer, int64_t tokens) {
  if (observer_ == nullptr || fault_) return {};
  host_scores_ = observer_->score_buffer(layer, tokens);
  if (host_scores_.data == nullptr || backend_->memory().host()) return host_scores_;
  const int64_t bytes = host_scores_.rows * host_scores_.cols * dtype_size(DType::kF32);
  auto buffer = device::Buffer::allocate(backend_->memory(), bytes, "index scores");
  if (!buffer) {
    fault_ = buffer.error();
    return {};
  }
  device_scores_ = std::move(*buffer);
  MatrixView scores = host_scores_;
  scores.data = device_scores_.data();
  scores.stride = scores.cols;
  return scores;
}

void Tap::selection(int64_t layer, ConstMatrixView selected, const int32_t* counts) {
  if (observer_ == nullptr || fault_) return;
  ConstMatrixView of_row(reinterpret_cast<const std::byte*>(counts), DType::kI32, selected.rows, 1,
                         1);
  if (device_scores_.data() != nullptr) {
    MatrixView scores = host_scores_;
    scores.data = device_scores_.data();
    if (!keep(model::fetch(*backend_, scores, host_scores_))) return;
    device_scores_ = {};
  }
  if (fetch(selected, first_, selected) && fetch(of_row, second_, of_row))
    observer_->on_selection(layer, selected, of_row.row_as<int32_t>(0));
}

void Tap::routes(int64_t layer, ConstMatrixView ids, ConstMatrixView weights, int64_t chosen) {
  if (observer_ == nullptr || fault_) return;
  if (fetch(ids, first_, ids) && fetch(weights, second_, weights))
    // The shared expert's, where it has one, comes first.
    observer_->on_routes(layer, ids.slice_cols(ids.cols - chosen, chosen),
                         weights.slice_cols(ids.cols - chosen, chosen));
}

Result<void> Tap::status() const {
  if (fault_) return tl::unexpected<Error>(*fault_);
  return {};
}

}  // namespace longshore::model
