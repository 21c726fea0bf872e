// A look inside a forward pass, for tests and tools. Serving runs without one.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/paged.h"

namespace longshore::model {

// Views are valid during the call only.
class Observer {
 public:
  virtual ~Observer() = default;
  // The embedding output (layer -1), then each layer's output, before the final norm. x [T, hidden]
  // fp32.
  virtual void on_hidden(int64_t /*layer*/, ConstMatrixView /*x*/) {}
  // Where index scores shall go, [T, >= longest context] fp32; an empty view: not wanted.
  virtual MatrixView score_buffer(int64_t /*layer*/, int64_t /*tokens*/) { return {}; }
  // After a full layer's choice. selected [T, top_k] int32 ascending, -1 past counts [T].
  virtual void on_selection(int64_t /*layer*/, ConstMatrixView /*selected*/,
                            const int32_t* /*counts*/) {}
  // ids [T, experts_per_token] int32, weights likewise fp32.
  virtual void on_routes(int64_t /*layer*/, ConstMatrixView /*ids*/, ConstMatrixView /*weights*/) {}
};

}  // namespace longshore::model
