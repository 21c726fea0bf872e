#include "model/workspace.h"

#include <algorithm>
#include <array>

namespace longshore::model {
namespace {

template <class Owner>
struct Shape {
  Activation Owner::*member;
  const char* name;
  int64_t cols;
  DType dtype;
};

constexpr int64_t kRuleInts = sizeof(kernels::DrawRule) / sizeof(int32_t);

// What a step's end makes before it goes to the host.
std::array<Shape<Workspace>, 3> end_shapes(const GlmConfig& c) {
  return {{{&Workspace::logits, "logits", c.vocab_size, DType::kF32},
           {&Workspace::drawn, "drawn ids", 1, DType::kI32},
           {&Workspace::draw_rules, "rules of draws", kRuleInts, DType::kI32}}};
}

int64_t end_rows(kernels::Backend& backend, const StepLimits& limits) {
  return backend.memory().host() ? 0
                                 : std::min(limits.sequences * (1 + limits.drafts), limits.tokens);
}

std::array<Shape<LayerState>, 6> state_shapes(const GlmConfig& c, DType act) {
  return {{{&LayerState::x, "residual stream", c.hidden_size, DType::kF32},
           {&LayerState::selected, "chosen positions", c.index_top_k, DType::kI32},
           {&LayerState::counts, "counts of chosen positions", 1, DType::kI32},
           {&LayerState::normed, "normed hidden states", c.hidden_size, act},
           {&LayerState::route_ids, "expert ids", c.experts_per_token + 1, DType::kI32},
           {&LayerState::route_weights, "expert weights", c.experts_per_token + 1, DType::kF32}}};
}

std::array<Shape<Workspace>, 18> shapes(const GlmConfig& c, DType act) {
  const int64_t ffn = std::max(c.intermediate_size, c.num_shared_experts * c.moe_intermediate_size);
  constexpr DType kF32 = DType::kF32;
  return {{
      {&Workspace::q_lat_raw, "query latents before the norm", c.q_lora_rank, kF32},
      {&Workspace::q_lat, "query latents", c.q_lora_rank, act},
      {&Workspace::q_raw, "queries before rotation", c.num_heads * c.qk_head_dim(), kF32},
      {&Workspace::q, "queries", c.num_heads * c.qk_head_dim(), act},
      {&Workspace::kv, "latents", c.latent_width(), kF32},
      {&Workspace::q_c, "absorbed queries", c.num_heads * c.kv_lora_rank, act},
      {&Workspace::o_lat, "latent attention output", c.num_heads * c.kv_lora_rank, act},
      {&Workspace::o, "attention output", c.num_heads * c.v_head_dim, act},
      {&Workspace::index_k, "index keys", c.index_head_dim, kF32},
      {&Workspace::index_q, "index queries", c.index_num_heads * c.index_head_dim, kF32},
      {&Workspace::index_weights, "index head weights", c.index_num_heads, kF32},
      {&Workspace::gate, "FFN gate", ffn, kF32},
      {&Workspace::up, "FFN up", ffn, kF32},
      {&Workspace::ffn, "FFN activation", ffn, act},
      {&Workspace::router_logits, "router logits", c.num_experts, kF32},
      {&Workspace::mtp_hidden, "MTP hidden states", c.hidden_size, kF32},
      {&Workspace::mtp_input, "MTP input", 2 * c.hidden_size, act},
      {&Workspace::head_input, "head input", c.hidden_size, act},
  }};
}

}  // namespace

Result<Activation> Activation::create(device::Memory& memory, int64_t max_tokens, int64_t cols,
                                      DType dtype, const char* name) {
  Activation activation;
  LS_TRY(activation.buffer_,
         device::Buffer::allocate(memory, max_tokens * cols * dtype_size(dtype), name));
  activation.dtype_ = dtype;
  activation.max_tokens_ = max_tokens;
  activation.cols_ = cols;
  return activation;
}

MatrixView Activation::first(int64_t tokens) const {
  LS_CHECK_MSG(tokens >= 0 && tokens <= max_tokens_, "{} tokens in a workspace of {}", tokens,
               max_tokens_);
  return {buffer_.data(), dtype_, tokens, cols_, cols_};
}

MatrixView Activation::packed(int64_t tokens, int64_t cols) const {
  LS_CHECK(cols >= 0 && cols <= cols_);
  MatrixView view = first(tokens);
  view.cols = view.stride = cols;
  return view;
}

Result<LayerState> LayerState::create(const GlmConfig& config, kernels::Backend& backend,
                                      int64_t max_tokens) {
  LayerState state;
  for (const Shape<LayerState>& shape : state_shapes(config, backend.activation_dtype())) {
    LS_TRY(state.*shape.member,
           Activation::create(backend.memory(), max_tokens, shape.cols, shape.dtype, shape.name));
  }
  return state;
}

int64_t LayerState::bytes(const GlmConfig& config, DType act, int64_t max_tokens) {
  int64_t bytes = 0;
  for (const Shape<LayerState>& shape : state_shapes(config, act))
    bytes += max_tokens * shape.cols * dtype_size(shape.dtype);
  return bytes;
}

Result<Workspace> Workspace::create(const GlmConfig& config, kernels::Backend& backend,
                                    const StepLimits& limits) {
  LS_CHECK(limits.tokens >= 1 && limits.sequences >= 1);
  Workspace workspace;
  const auto add = [&](const Shape<Workspace>& shape, int64_t rows) -> Result<void> {
    LS_TRY(workspace.*shape.member,
           Activation::create(backend.memory(), rows, shape.cols, shape.dtype, shape.name));
    return {};
  };
  for (const Shape<Workspace>& shape : shapes(config, backend.activation_dtype()))
    LS_TRY_VOID(add(shape, limits.tokens));
  for (const Shape<Workspace>& shape : end_shapes(config))
    LS_TRY_VOID(add(shape, end_rows(backend, limits)));
  return workspace;
}

int64_t Workspace::bytes(const GlmConfig& config, kernels::Backend& backend,
                         const StepLimits& limits) {
  int64_t bytes = 0;
  for (const Shape<Workspace>& shape : end_shapes(config))
    bytes += end_rows(backend, limits) * shape.cols * dtype_size(shape.dtype);
  for (const Shape<Workspace>& shape : shapes(config, backend.activation_dtype()))
    bytes += limits.tokens * shape.cols * dtype_size(shape.dtype);
  return bytes;
}

}  // namespace longshore::model
