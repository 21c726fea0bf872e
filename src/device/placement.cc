#include "device/placement.h"

namespace longshore::device {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

Result<Placement> Placement::reserve(Memory& memory, int64_t bytes, const char* what) {
  Placement placement(memory, /*counting=*/false);
  LS_TRY(placement.buffer_, Buffer::allocate(memory, bytes, what));
  placement.place_ = placement.buffer_.data();
  placement.room_ = bytes;
  return placement;
}

Placement Placement::within(Memory& memory, std::byte* place, int64_t bytes) {
  Placement placement(memory, /*counting=*/false);
  placement.place_ = place;
  placement.room_ = bytes;
  return placement;
}

std::byte* Placement::take(int64_t bytes) {
  const int64_t at = used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (counting_) return nullptr;
  LS_CHECK_MSG(used_ <= room_, "{} bytes placed in {}", used_, room_);
  return place_ + at;
}

Result<const std::byte*> Placement::copy(const void* host, int64_t bytes) {
  std::byte* to = take(bytes);
  if (!counting_) LS_TRY_VOID(memory_->upload(to, host, bytes));
  return to;
}

Result<WeightView> Placement::weight(const WeightView& host) {
  if (memory_->host()) return host;
  WeightView view = host;
  LS_TRY(view.data, copy(host.data, host.bytes()));
  if (host.scale != nullptr) {
    LS_TRY(const std::byte* scale, copy(host.scale, host.scale_bytes()));
    view.scale = reinterpret_cast<const float*>(scale);
  }
  return view;
}

Result<const float*> Placement::floats(std::span<const float> host) {
  LS_TRY(const std::byte* data, copy(host.data(), static_cast<int64_t>(host.size_bytes())));
  return reinterpret_cast<const float*>(data);
}

Result<const std::byte*> Placement::made(int64_t bytes,
                                         const std::function<void(std::byte*)>& write) {
  if (counting_) return take(bytes);
  if (memory_->host()) {
    std::byte* to = take(bytes);
    write(to);
    return to;
  }
  LS_TRY(const Buffer host, Buffer::allocate(bytes, "weights on their way to the device"));
  write(host.data());
  return copy(host.data(), bytes);
}

}  // namespace longshore::device
