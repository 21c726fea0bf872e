// Weights on their way from the checkpoint into a backend's memory, once, at load.
//
// Two passes of the same code: count() adds up what must be placed, reserve() takes exactly that in
// one piece, and the second pass copies. Where the memory is the host's, a weight matrix stays
// where it is and takes nothing.
//
// Ownership: the memory outlives the Placement and the buffer; release() hands the buffer to
// whoever keeps the views. Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/error.h"
#include "base/tensor.h"
#include "device/buffer.h"

namespace longshore::device {

class Placement {
 public:
  // Copies nothing: what it returns points nowhere, and bytes() says what reserve() must take.
  static Placement count(Memory& memory) { return {memory, /*counting=*/true}; }
  // kMemory naming `what` and the size.
  static Result<Placement> reserve(Memory& memory, int64_t bytes, const char* what);

  // Into `bytes` that somebody else has taken from the memory.
  static Placement within(Memory& memory, std::byte* place, int64_t bytes);

  // The same weights in the memory, values and scales each 256-byte aligned. kDevice.
  Result<WeightView> weight(const WeightView& host);
  Result<const float*> floats(std::span<const float> host);
  // `bytes` that write() makes: straight in host memory, else in a copy that lives during the call.
  Result<const std::byte*> made(int64_t bytes, const std::function<void(std::byte*)>& write);

  [[nodiscard]] int64_t bytes() const { return used_; }
  [[nodiscard]] Buffer release() { return std::move(buffer_); }

 private:
  Placement(Memory& memory, bool counting) : memory_(&memory), counting_(counting) {}
  // The next 256-byte aligned place; nullptr while counting.
  std::byte* take(int64_t bytes);
  Result<const std::byte*> copy(const void* host, int64_t bytes);

  Memory* memory_;
  bool counting_;
  Buffer buffer_;               // of reserve()
  std::byte* place_ = nullptr;  // where the first byte goes
  int64_t room_ = 0;
  int64_t used_ = 0;
};

}  // namespace longshore::device
