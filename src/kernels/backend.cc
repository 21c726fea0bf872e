// The operations whose arithmetic leaves nothing to choose: one form for every backend in host
// memory.
#include "kernels/backend.h"

#include <atomic>

#include <sched.h>

#include "kernels/draw.h"
#include "kernels/validate.h"

namespace longshore::kernels {

void Backend::wait_for_host(const int32_t* flag, int32_t value) {
  const std::atomic_ref<const int32_t> word(*flag);
  // Unsigned: the difference of two values that wrapped.
  while (static_cast<int32_t>(static_cast<uint32_t>(word.load(std::memory_order_acquire)) -
                              static_cast<uint32_t>(value)) < 0) {
    sched_yield();
  }
}

void Backend::mask_routes(const MaskRoutesParams& params) {
  validate(params);
  for (int64_t i = 0; i < params.count; ++i) {
    const int32_t id = params.ids[i];
    params.out[i] = id >= 0 && params.keep[id] != 0 ? id : -1;
  }
}

void Backend::add(const AddParams& params) {
  validate(params);
  for (int64_t t = 0; t < params.y.rows; ++t) {
    const float* x = params.x.row_as<float>(t);
    float* y = params.y.row_as<float>(t);
    for (int64_t i = 0; i < params.y.cols; ++i) y[i] += x[i];
  }
}

void Backend::draw(const DrawParams& params) {
  validate(params);
  RowDraw draw_row;
  for (int64_t t = 0; t < params.logits.rows; ++t) {
    const std::span<const float> logits(params.logits.row_as<float>(t),
                                        static_cast<size_t>(params.logits.cols));
    const DrawRule rule = params.greedy ? DrawRule{} : params.rules[t];
    params.ids[t] = all_finite(logits) ? draw_row(logits, rule) : -1;
  }
}

}  // namespace longshore::kernels
