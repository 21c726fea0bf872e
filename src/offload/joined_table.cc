#include "offload/joined_table.h"

#include <fmt/format.h>

namespace longshore::offload {
namespace {

using kernels::ExpertView;

constexpr int64_t kEntry = static_cast<int64_t>(sizeof(ExpertView));

bool same(const WeightView& a, const WeightView& b) {
  return a.dtype == b.dtype && a.out == b.out && a.in == b.in && a.block_rows == b.block_rows &&
         a.block_cols == b.block_cols;
}

}  // namespace

Result<std::vector<ExpertView>> JoinedTable::bind_shared(const Checkpoint& checkpoint,
                                                         int64_t first_layer, int64_t layers) {
  const GlmConfig& config = checkpoint.config();
  std::vector<ExpertView> shared;
  if (config.num_shared_experts != 1) return shared;
  const int64_t width = config.moe_intermediate_size;
  for (int64_t layer = first_layer; layer < first_layer + layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.mlp.shared_experts.", layer);
    ExpertView view;
    LS_TRY(view.gate, checkpoint.weight(prefix + "gate_proj.weight", width, config.hidden_size));
    LS_TRY(view.up, checkpoint.weight(prefix + "up_proj.weight", width, config.hidden_size));
    LS_TRY(view.down, checkpoint.weight(prefix + "down_proj.weight", config.hidden_size, width));
    shared.push_back(view);
  }
  return shared;
}

bool JoinedTable::fits(const HostExperts& experts, std::span<const ExpertView> shared) {
  if (experts.size() == 0 || static_cast<int64_t>(shared.size()) != experts.layers()) return false;
  for (int64_t index = 0; index < experts.layers(); ++index) {
    const ExpertView shape = experts.shape(index);
    const ExpertView& one = shared[static_cast<size_t>(index)];
    if (experts.mixed(index) || !same(one.gate, shape.gate) || !same(one.up, shape.up) ||
        !same(one.down, shape.down)) {
      return false;
    }
  }
  return true;
}

int64_t JoinedTable::bytes(int64_t layers, int64_t per_layer) {
  return layers * (per_layer + 1) * kEntry;
}

Result<JoinedTable> JoinedTable::create(const HostExperts& experts, kernels::Backend& backend,
                                        const DeviceBank& bank,
                                        std::span<const ExpertView> shared) {
  LS_CHECK(fits(experts, shared));
  JoinedTable joined;
  const int64_t per_layer = experts.per_layer();
  joined.width_ = per_layer + 1;
  std::vector<ExpertView> views;
  views.reserve(static_cast<size_t>(experts.layers() * joined.width_));
  std::vector<ExpertView> layer(static_cast<size_t>(per_layer));
  for (int64_t index = 0; index < experts.layers(); ++index) {
    LS_TRY_VOID(backend.memory().download(
        layer.data(), reinterpret_cast<const std::byte*>(bank.layer(index)), per_layer * kEntry));
    views.insert(views.end(), layer.begin(), layer.end());
    views.push_back(shared[static_cast<size_t>(index)]);
  }
  const auto bytes = static_cast<int64_t>(views.size()) * kEntry;
  LS_TRY(joined.table_, device::Buffer::allocate(backend.memory(), bytes, "table of all experts"));
  LS_TRY_VOID(backend.memory().upload(joined.table_.data(), views.data(), bytes));
  return joined;
}

const ExpertView* JoinedTable::layer(int64_t index) const {
  return reinterpret_cast<const ExpertView*>(table_.data()) + index * width_;
}

}  // namespace longshore::offload
