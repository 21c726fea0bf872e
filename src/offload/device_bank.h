// Device memory for experts: blocks of one expert's matrices each, the scales of all experts, and
// the table that kernels address experts through.
//
// An entry of the table is an expert, not a block: kernels get the router's ids as they are. An
// expert's scales are a four thousandth of it and stay on the device for all experts; only the
// matrices move. An entry whose expert is in no block points to its last one: calls leave such
// experts out (MaskRoutesParams).
//
// Ownership: owns its device memory; backend and host experts outlive it. Threading: the thread
// that calls the backend.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "kernels/route_exchange.h"
#include "offload/host_experts.h"

namespace longshore::offload {

class DeviceBank {
 public:
  // kMemory, kDevice.
  static Result<DeviceBank> create(const HostExperts& experts, kernels::Backend& backend,
                                   int64_t blocks);
  // What create() takes of the backend's memory for so many blocks.
  [[nodiscard]] static int64_t bytes(const HostExperts& experts, int64_t blocks);
  // Bytes of one block: any expert fits any.
  [[nodiscard]] static int64_t block_bytes(const HostExperts& experts);

  // Queues the copy of an expert's matrices into a block. expert: index in the store.
  void copy(int64_t expert, int64_t block);
  // The same of what remains of the expert when the first `rows` of its intermediate width are
  // left out, in [1, width): they are 0 there, so that computing all of it adds the rest's term.
  // Zeros that the last such copy left in the same block are not written again.
  void copy_rest(int64_t expert, int64_t block, int64_t rows);
  // Bytes of that on the wire.
  [[nodiscard]] int64_t rest_bytes(int64_t expert, int64_t rows) const;
  // Queued operations from now on find the expert in the block.
  void point(int64_t expert, int64_t block);
  // Both at once, at load: no queue, no wire.
  Result<void> load(int64_t expert, int64_t block);

  // [per_layer] of the layer of that index, in the device's memory.
  [[nodiscard]] kernels::ExpertView* layer(int64_t index) const;
  // Where the matrices of an expert are that is in a block.
  [[nodiscard]] kernels::ExpertBlocks layout() const;
  // Bytes that copy() moves.
  [[nodiscard]] int64_t copied_bytes() const { return offsets_.back(); }
  [[nodiscard]] int64_t blocks() const { return blocks_; }

 private:
  // The expert as the device sees it in that block.
  [[nodiscard]] kernels::ExpertView view(int64_t expert, int64_t block) const;
  Result<void> upload_scales();
  // Zeros in the first `rows` of an expert's intermediate width.
  void clear_first(const kernels::ExpertView& to, int64_t block, int64_t rows);

  const HostExperts* experts_ = nullptr;
  kernels::Backend* backend_ = nullptr;
  int64_t blocks_ = 0;
  std::array<int64_t, 4> offsets_{};         // of gate, up and down in a block, and its end
  device::Buffer memory_;                    // [blocks] of block_bytes()
  device::Buffer scales_;                    // [experts] gate, up, down
  device::Buffer table_;                     // [experts] ExpertView
  std::vector<kernels::ExpertView> scaled_;  // [experts] with the scales' place, without data
  // What copy_rest() wrote last: the first `rows` of an expert of these types are 0 in the block.
  struct Zeros {
    int64_t block = -1;
    std::array<DType, 3> dtypes{};
    int64_t rows = 0;
  };
  Zeros zeros_;
};

}  // namespace longshore::offload
