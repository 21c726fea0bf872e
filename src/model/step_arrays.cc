#include "model/step_arrays.h"

#include <algorithm>

namespace longshore::model {
namespace {

int64_t capacity(const GlmConfig& config, const StepLimits& limits) {
  const auto pages = [](int64_t positions) {
    return (positions + kernels::kPageTokens - 1) / kernels::kPageTokens;
  };
  const int64_t context = limits.context > 0 ? limits.context : config.max_positions;
  const int64_t table = std::max(limits.sequences * pages(context), pages(config.max_positions));
  return 5 * limits.tokens + table;
}

// What kernels cannot check on a device.
void check(const StepInput& input, int64_t vocab) {
  const kernels::BatchView& batch = input.batch;
  for (int64_t t = 0; t < batch.tokens; ++t) {
    LS_CHECK_MSG(input.ids[t] >= 0 && input.ids[t] < vocab, "id {}", input.ids[t]);
    LS_CHECK_MSG(batch.sequence_of[t] >= 0 && batch.sequence_of[t] < batch.sequences,
                 "token {} of sequence {}", t, batch.sequence_of[t]);
    LS_CHECK_MSG(batch.positions[t] >= 0 &&
                     batch.positions[t] / kernels::kPageTokens < batch.page_table_width,
                 "token {} at position {}", t, batch.positions[t]);
    LS_CHECK(batch.page(batch.sequence_of[t], batch.positions[t]) >= 0);
  }
  for (const int32_t row : input.logit_rows)
    LS_CHECK_MSG(row >= 0 && row < batch.tokens, "row {} of {}", row, batch.tokens);
}

}  // namespace

Result<StepArrays> StepArrays::create(const GlmConfig& config, kernels::Backend& backend,
                                      const StepLimits& limits) {
  StepArrays arrays;
  arrays.backend_ = &backend;
  arrays.vocab_ = config.vocab_size;
  if (backend.memory().host()) return arrays;
  LS_TRY(arrays.device_,
         device::Buffer::allocate(backend.memory(), bytes(config, limits), "a step's arrays"));
  arrays.packed_.reserve(static_cast<size_t>(capacity(config, limits)));
  return arrays;
}

int64_t StepArrays::bytes(const GlmConfig& config, const StepLimits& limits) {
  return capacity(config, limits) * static_cast<int64_t>(sizeof(int32_t));
}

const int32_t* StepArrays::pack(const int32_t* host, int64_t count) {
  const auto* place = reinterpret_cast<const int32_t*>(device_.data()) + packed_.size();
  packed_.insert(packed_.end(), host, host + count);
  LS_CHECK_MSG(packed_.size() * sizeof(int32_t) <= static_cast<size_t>(device_.bytes()),
               "a step of {} numbers and room for {} bytes", packed_.size(), device_.bytes());
  return place;
}

StepArrays::View StepArrays::stage(const StepInput& input) {
  const kernels::BatchView& batch = input.batch;
  if (device_.data() == nullptr)
    return {input.ids, input.logit_rows.data(), input.hidden_rows, batch};
  check(input, vocab_);
  packed_.clear();
  View view;
  view.batch = batch;
  view.ids = pack(input.ids, batch.tokens);
  view.batch.positions = pack(batch.positions, batch.tokens);
  view.batch.sequence_of = pack(batch.sequence_of, batch.tokens);
  view.logit_rows = pack(input.logit_rows.data(), static_cast<int64_t>(input.logit_rows.size()));
  if (input.hidden_rows != nullptr) view.hidden_rows = pack(input.hidden_rows, batch.tokens);
  view.batch.page_table = pack(batch.page_table, batch.sequences * batch.page_table_width);
  send();
  return view;
}

StepArrays::View StepArrays::stage(const StepInput& input, const StepShape& shape) {
  const kernels::BatchView& batch = input.batch;
  LS_CHECK(device_.data() != nullptr && batch.tokens <= shape.rows &&
           batch.sequences <= shape.rows);
  check(input, vocab_);
  packed_.clear();
  View view;
  view.ids = pack_rows(input.ids, batch.tokens, shape.rows);
  view.batch.tokens = shape.rows;
  view.batch.sequences = shape.rows;
  view.batch.positions = pack_rows(batch.positions, batch.tokens, shape.rows);
  view.batch.sequence_of = pack_rows(batch.sequence_of, batch.tokens, shape.rows);
  view.logit_rows =
      pack_rows(input.logit_rows.data(), static_cast<int64_t>(input.logit_rows.size()), shape.rows);
  if (input.hidden_rows != nullptr)
    view.hidden_rows = pack_rows(input.hidden_rows, batch.tokens, shape.rows);
  view.batch.page_table_width = shape.pages;
  view.batch.page_table = reinterpret_cast<const int32_t*>(device_.data()) + packed_.size();
  // Nobody reads past a sequence's own pages, nor a sequence that no row has.
  const int64_t width = std::min(batch.page_table_width, shape.pages);
  for (int64_t b = 0; b < batch.sequences; ++b) {
    pack(batch.page_table + b * batch.page_table_width, width);
    if (b + 1 < batch.sequences)
      packed_.resize(packed_.size() + static_cast<size_t>(shape.pages - width), 0);
  }
  send();
  return view;
}

// As bits: what is copied need not be numbers of its kind.
void StepArrays::take_ids(const View& view, ConstMatrixView drawn) {
  LS_CHECK(reinterpret_cast<const std::byte*>(view.ids) == device_.data() && drawn.cols == 1);
  drawn.dtype = DType::kF32;
  backend_->gather_rows({.x = drawn,
                         .rows = view.logit_rows,
                         .y = {device_.data(), DType::kF32, view.batch.tokens, 1, 1}});
}

void StepArrays::send() {
  backend_->copy_ints(packed_.data(), static_cast<int64_t>(packed_.size()),
                      reinterpret_cast<int32_t*>(device_.data()));
}

const int32_t* StepArrays::pack_rows(const int32_t* host, int64_t count, int64_t rows) {
  const int32_t* place = pack(host, count);
  packed_.resize(packed_.size() + static_cast<size_t>(rows - count), host[count - 1]);
  return place;
}

}  // namespace longshore::model
