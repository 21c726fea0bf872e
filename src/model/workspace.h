// The activations of one step, allocated once for the longest step: those that only a layer needs,
// reused by every layer, and those that a step carries from layer to layer.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "checkpoint/config.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "model/step.h"

namespace longshore::model {

// One named activation [max_tokens, cols]; first(tokens) gives the rows of this step.
class Activation {
 public:
  static Result<Activation> create(device::Memory& memory, int64_t max_tokens, int64_t cols,
                                   DType dtype, const char* name);
  [[nodiscard]] int64_t max_tokens() const { return max_tokens_; }
  [[nodiscard]] MatrixView first(int64_t tokens) const;
  // Fewer columns, and still no gaps between the rows.
  [[nodiscard]] MatrixView packed(int64_t tokens, int64_t cols) const;

 private:
  device::Buffer buffer_;
  DType dtype_ = DType::kF32;
  int64_t max_tokens_ = 0;
  int64_t cols_ = 0;
};

// What a step carries from layer to layer, and in the middle of a layer to those of its experts
// that are still to come. A step that pauses keeps its own. act: the backend's activation dtype.
struct LayerState {
  // For steps of so many tokens, in the backend's memory. kMemory.
  static Result<LayerState> create(const GlmConfig& config, kernels::Backend& backend,
                                   int64_t max_tokens);
  // What create() takes.
  [[nodiscard]] static int64_t bytes(const GlmConfig& config, DType act, int64_t max_tokens);

  Activation x;              // [T, hidden] fp32: the residual stream
  Activation selected;       // [T, index_top_k] int32: stays between layers for IndexShare
  Activation counts;         // [T, 1] int32
  Activation normed;         // [T, hidden] act
  Activation route_ids;      // [T, experts_per_token + 1] int32: the shared expert's may be there
  Activation route_weights;  // [T, experts_per_token + 1] fp32
};

// act: the backend's activation dtype.
struct Workspace {
  // In the backend's memory. kMemory.
  static Result<Workspace> create(const GlmConfig& config, kernels::Backend& backend,
                                  const StepLimits& limits);
  // What create() takes.
  [[nodiscard]] static int64_t bytes(const GlmConfig& config, kernels::Backend& backend,
                                     const StepLimits& limits);

  Activation q_lat_raw;      // [T, q_lora] fp32
  Activation q_lat;          // [T, q_lora] act
  Activation q_raw;          // [T, heads * qk_head_dim] fp32
  Activation q;              // [T, heads * qk_head_dim] act, rotated
  Activation kv;             // [T, kv_lora + rope] fp32
  Activation q_c;            // [T, heads * kv_lora] act
  Activation o_lat;          // [T, heads * kv_lora] act
  Activation o;              // [T, heads * v] act
  Activation index_k;        // [T, index_dim] fp32
  Activation index_q;        // [T, index_heads * index_dim] fp32
  Activation index_weights;  // [T, index_heads] fp32
  Activation gate;           // [T, widest FFN] fp32
  Activation up;             // [T, widest FFN] fp32
  Activation ffn;            // [T, widest FFN] act
  Activation router_logits;  // [T, experts] fp32
  Activation mtp_hidden;     // [T, hidden] fp32: the hidden states that MTP goes on from
  Activation mtp_input;      // [T, 2 * hidden] act
  Activation head_input;     // [T, hidden] act: rows whose logits are wanted
  Activation logits;  // [B (1 + drafts), vocab] fp32; none in host memory: the caller's are written
  Activation drawn;   // [B (1 + drafts), 1] int32: ids
  Activation draw_rules;  // [B (1 + drafts), DrawRule] as int32
};

}  // namespace longshore::model
