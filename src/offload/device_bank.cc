#include "offload/device_bank.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "device/placement.h"

namespace longshore::offload {
namespace {

using kernels::ExpertView;

constexpr int64_t kAlignment = 256;
constexpr std::array kMatrices = {&ExpertView::gate, &ExpertView::up, &ExpertView::down};
// Entries of the table travel as int32 (Backend::copy_ints).
static_assert(sizeof(ExpertView) % sizeof(int32_t) == 0);

int64_t aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The places of gate, up and down in a block that any expert fits, and its end.
std::array<int64_t, 4> offsets(const HostExperts& experts) {
  std::array<int64_t, 4> at{};
  for (size_t i = 0; i < kMatrices.size(); ++i) {
    int64_t most = 0;
    for (const ExpertView& view : experts.views())
      most = std::max(most, aligned((view.*kMatrices[i]).bytes()));
    at[i + 1] = at[i] + most;
  }
  return at;
}

}  // namespace

int64_t DeviceBank::block_bytes(const HostExperts& experts) {
  return offsets(experts).back();
}

int64_t DeviceBank::bytes(const HostExperts& experts, int64_t blocks) {
  int64_t scales = 0;
  for (const ExpertView& view : experts.views()) {
    for (const auto matrix : kMatrices) scales += aligned((view.*matrix).scale_bytes());
  }
  return blocks * block_bytes(experts) + scales +
         experts.size() * static_cast<int64_t>(sizeof(ExpertView));
}

Result<DeviceBank> DeviceBank::create(const HostExperts& experts, kernels::Backend& backend,
                                      int64_t blocks) {
  LS_CHECK(experts.size() > 0 && blocks >= 0);
  DeviceBank bank;
  bank.experts_ = &experts;
  bank.backend_ = &backend;
  bank.blocks_ = blocks;
  bank.offsets_ = offsets(experts);
  bank.scaled_ = experts.views();
  device::Memory& memory = backend.memory();
  LS_TRY(bank.memory_,
         device::Buffer::allocate(memory, blocks * bank.copied_bytes(), "expert slots"));
  LS_TRY(bank.table_,
         device::Buffer::allocate(memory, experts.size() * static_cast<int64_t>(sizeof(ExpertView)),
                                  "table of experts"));
  LS_TRY_VOID(bank.upload_scales());
  return bank;
}

Result<void> DeviceBank::upload_scales() {
  device::Memory& memory = backend_->memory();
  LS_TRY(scales_,
         device::Buffer::allocate(memory, bytes(*experts_, 0) - table_.bytes(), "experts' scales"));
  std::byte* place = scales_.data();
  for (ExpertView& view : scaled_) {
    for (const auto matrix : kMatrices) {
      WeightView& w = view.*matrix;
      w.data = nullptr;
      if (w.scale == nullptr) continue;
      LS_TRY_VOID(memory.upload(place, w.scale, w.scale_bytes()));
      w.scale = reinterpret_cast<const float*>(place);
      place += aligned(w.scale_bytes());
    }
  }
  return memory.upload(table_.data(), scaled_.data(), table_.bytes());
}

ExpertView DeviceBank::view(int64_t expert, int64_t block) const {
  LS_CHECK(expert >= 0 && expert < experts_->size() && block >= 0 && block < blocks_);
  ExpertView view = scaled_[static_cast<size_t>(expert)];
  for (size_t i = 0; i < kMatrices.size(); ++i)
    (view.*kMatrices[i]).data = memory_.data() + block * copied_bytes() + offsets_[i];
  return view;
}

kernels::ExpertBlocks DeviceBank::layout() const {
  return {memory_.data(), copied_bytes(), offsets_[1], offsets_[2]};
}

void DeviceBank::copy(int64_t expert, int64_t block) {
  if (block == zeros_.block) zeros_ = {};
  const ExpertView to = view(expert, block);
  const ExpertView& from = experts_->views()[static_cast<size_t>(expert)];
  for (const auto matrix : kMatrices) {
    backend_->transfers()->copy(const_cast<std::byte*>((to.*matrix).data), (from.*matrix).data,
                                (from.*matrix).bytes());
  }
}

void DeviceBank::clear_first(const ExpertView& to, int64_t block, int64_t rows) {
  std::array<DType, 3> dtypes{};
  for (size_t i = 0; i < kMatrices.size(); ++i) dtypes[i] = (to.*kMatrices[i]).dtype;
  const bool known = zeros_.block == block && zeros_.dtypes == dtypes;
  const int64_t before = known ? std::min(zeros_.rows, rows) : 0;
  zeros_ = {block, dtypes, rows};
  if (before == rows) return;
  device::Transfers& wire = *backend_->transfers();
  for (const auto matrix : {&ExpertView::gate, &ExpertView::up}) {
    const WeightView& w = to.*matrix;
    const int64_t row = w.in * dtype_size(w.dtype);
    wire.clear_rows(const_cast<std::byte*>(w.data) + before * row, 1, (rows - before) * row,
                    (rows - before) * row);
  }
  const int64_t size = dtype_size(to.down.dtype);
  wire.clear_rows(const_cast<std::byte*>(to.down.data) + before * size, to.down.out,
                  (rows - before) * size, to.down.in * size);
}

void DeviceBank::copy_rest(int64_t expert, int64_t block, int64_t rows) {
  device::Transfers& wire = *backend_->transfers();
  const ExpertView to = view(expert, block);
  const ExpertView& from = experts_->views()[static_cast<size_t>(expert)];
  LS_CHECK(rows >= 1 && rows < from.gate.out);
  clear_first(to, block, rows);
  for (const auto matrix : {&ExpertView::gate, &ExpertView::up}) {
    const WeightView& w = from.*matrix;
    const int64_t before = rows * w.in * dtype_size(w.dtype);
    wire.copy(const_cast<std::byte*>((to.*matrix).data) + before, w.data + before,
              w.bytes() - before);
  }
  const WeightView& down = from.down;
  const int64_t before = rows * dtype_size(down.dtype);
  const int64_t stride = down.in * dtype_size(down.dtype);
  wire.copy_rows(const_cast<std::byte*>(to.down.data) + before, down.data + before, down.out,
                 stride - before, stride);
}

int64_t DeviceBank::rest_bytes(int64_t expert, int64_t rows) const {
  const ExpertView& view = experts_->views()[static_cast<size_t>(expert)];
  int64_t bytes = 0;
  for (const auto matrix : kMatrices) bytes += (view.*matrix).bytes();
  return bytes / view.gate.out * (view.gate.out - rows);
}

void DeviceBank::point(int64_t expert, int64_t block) {
  const ExpertView entry = view(expert, block);
  constexpr int64_t kInts = sizeof(ExpertView) / sizeof(int32_t);
  std::array<int32_t, kInts> ints{};
  std::memcpy(ints.data(), &entry, sizeof entry);
  backend_->copy_ints(ints.data(), kInts,
                      reinterpret_cast<int32_t*>(table_.data()) + expert * kInts);
}

Result<void> DeviceBank::load(int64_t expert, int64_t block) {
  device::Memory& memory = backend_->memory();
  const ExpertView to = view(expert, block);
  const ExpertView& from = experts_->views()[static_cast<size_t>(expert)];
  for (const auto matrix : kMatrices) {
    LS_TRY_VOID(memory.upload(const_cast<std::byte*>((to.*matrix).data), (from.*matrix).data,
                              (from.*matrix).bytes()));
  }
  return memory.upload(table_.data() + expert * static_cast<int64_t>(sizeof(ExpertView)), &to,
                       sizeof to);
}

ExpertView* DeviceBank::layer(int64_t index) const {
  return reinterpret_cast<ExpertView*>(table_.data()) + index * experts_->per_layer();
}

}  // namespace longshore::offload
