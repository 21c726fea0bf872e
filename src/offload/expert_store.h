// Where the routed experts live and who computes them: the model's only way to an expert.
//
// The store is below the model: a MoE layer calls run() and does not know where an expert lies. On
// a machine without a GPU all experts lie in host memory, as they are in the checkpoint, and the
// CPU computes them there. Each model instance (target, draft) has its own store.
//
// Ownership: the checkpoint whose memory the views point into, and the backend, outlive the store.
// Threading: one thread (the engine's) calls run(); counters() may be read by the same thread
// between steps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"

namespace longshore::offload {

// Which expert each token goes to, in the order of the router.
struct Routes {
  const int32_t* ids = nullptr;    // [tokens, top_k]
  const float* weights = nullptr;  // [tokens, top_k]
  int64_t top_k = 0;
};

// Conservation: routed_experts = computed_on_cpu as long as there is no device.
struct ExpertCounters {
  int64_t routes = 0;           // token-expert pairs
  int64_t routed_experts = 0;   // distinct experts, summed over calls
  int64_t computed_on_cpu = 0;  // of these, by the CPU where they lie
  int64_t bytes_read = 0;       // weight and scale bytes of these
};

class ExpertStore {
 public:
  // Binds the experts of layers [first_layer, first_layer + layers) of the checkpoint; all of them
  // must be MoE layers. kModel: a tensor is missing or malformed.
  static Result<ExpertStore> create(const Checkpoint& checkpoint, int64_t first_layer,
                                    int64_t layers, kernels::Backend& backend);

  // y[t] += sum of the routed experts of token t, each route computed exactly once. layer: the
  // checkpoint's layer index.
  //   x [tokens, hidden] act;  y [tokens, hidden] fp32.
  void run(int64_t layer, ConstMatrixView x, const Routes& routes, MatrixView y);

  [[nodiscard]] const ExpertCounters& counters() const { return counters_; }
  // Weight and scale bytes of one expert.
  [[nodiscard]] int64_t expert_bytes() const { return expert_bytes_; }

 private:
  ExpertStore() = default;
  void count(int64_t tokens, const Routes& routes);

  kernels::Backend* backend_ = nullptr;
  int64_t first_layer_ = 0;
  int64_t num_experts_ = 0;
  int64_t expert_bytes_ = 0;
  std::vector<kernels::ExpertView> experts_;  // [layers, num_experts]
  std::vector<uint8_t> seen_;                 // [num_experts] scratch of count()
  ExpertCounters counters_;
};

}  // namespace longshore::offload
