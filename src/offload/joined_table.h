// A layer's routed experts and its shared one as one table, where all of them lie on the device:
// one grouped product computes both, the shared expert as number per_layer() with weight 1.
//
// The matrices stay where they are; the table alone is new. Ownership: owns its device memory; what
// the entries point to outlives it. Threading: the thread that calls the backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "offload/device_bank.h"
#include "offload/host_experts.h"

namespace longshore::offload {

class JoinedTable {
 public:
  // The shared experts of the layers as they lie in the checkpoint; empty: they have none, or one
  // that is as wide as several. kModel.
  static Result<std::vector<kernels::ExpertView>> bind_shared(const Checkpoint& checkpoint,
                                                              int64_t first_layer, int64_t layers);
  // Whether each layer's experts and its shared one [layers] have the same sizes, dtypes and blocks
  // throughout: what one product can compute.
  [[nodiscard]] static bool fits(const HostExperts& experts,
                                 std::span<const kernels::ExpertView> shared);
  // Bytes that create() takes of the backend's memory.
  [[nodiscard]] static int64_t bytes(int64_t layers, int64_t per_layer);
  // fits(). bank: of the same experts. kMemory, kDevice.
  static Result<JoinedTable> create(const HostExperts& experts, kernels::Backend& backend,
                                    const DeviceBank& bank,
                                    std::span<const kernels::ExpertView> shared);

  // [per_layer + 1] of the layer of that index, in the device's memory.
  [[nodiscard]] const kernels::ExpertView* layer(int64_t index) const;

 private:
  int64_t width_ = 0;  // per_layer + 1
  device::Buffer table_;
};

}  // namespace longshore::offload
