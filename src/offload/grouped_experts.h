// Whole layers of experts streamed: the form that users of SGLang's offloader know.
//
// Layers come in groups of `group_size`; of each group the last `num_in_group` are offloaded, the
// others stay on the device. `prefetch_step` offloaded layers have a place on the device at a time:
// the first of them load at start, and finishing one starts the load of the one that many places
// on, circularly, into the place that it leaves.
//
// Ownership: owns device memory; experts and backend outlive it. Threading: the thread that calls
// the backend.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "offload/counters.h"
#include "offload/device_bank.h"
#include "offload/host_experts.h"

namespace longshore::offload {

struct GroupOptions {
  int64_t group_size = -1;  // layers; -1: no groups
  int64_t num_in_group = 1;
  int64_t prefetch_step = 1;

  [[nodiscard]] bool on() const { return group_size > 0; }
  // kUsage naming the flag.
  [[nodiscard]] Result<void> validate() const;
  [[nodiscard]] bool offloads(int64_t index) const {
    return on() && index % group_size >= group_size - num_in_group;
  }
};

class GroupedExperts {
 public:
  // The resident layers are there and the first loads are on their way. kMemory, kDevice.
  static Result<std::unique_ptr<GroupedExperts>> create(const HostExperts& experts,
                                                        kernels::Backend& backend,
                                                        const GroupOptions& options);
  ~GroupedExperts();
  GroupedExperts(const GroupedExperts&) = delete;
  GroupedExperts& operator=(const GroupedExperts&) = delete;
  [[nodiscard]] static int64_t bytes(const HostExperts& experts, const GroupOptions& options);

  // A step begins at the first layer. Where the last one was cut short, the first offloaded layers
  // are loaded again.
  void begin_step();

  // Before a layer's experts are computed: where they are, [per_layer] in the device's memory. What
  // is queued from now on waits for them.
  [[nodiscard]] const kernels::ExpertView* begin(int64_t index);
  // Their computation is queued.
  void end(int64_t index);

  [[nodiscard]] const ExpertCounters& counters() const { return counters_; }
  [[nodiscard]] int64_t pool_bytes() const { return bank_.blocks() * bank_.copied_bytes(); }
  [[nodiscard]] bool resident(int64_t index) const { return !options_.offloads(index); }

 private:
  GroupedExperts(const HostExperts& experts, kernels::Backend& backend,
                 const GroupOptions& options);
  void start_load(int64_t offloaded, int64_t place);
  [[nodiscard]] int64_t places() const;
  [[nodiscard]] bool is_placed(int64_t offloaded) const;

  const HostExperts& experts_;
  kernels::Backend& backend_;
  GroupOptions options_;
  DeviceBank bank_;
  std::vector<int64_t> offloaded_;  // layers, ascending
  std::vector<int64_t> order_;      // [layers] place among the offloaded or among the resident ones
  std::vector<int64_t> holds_;      // [places] offloaded layer that is there or on its way
  std::vector<int64_t> place_of_;   // [offloaded] where it is or comes to
  std::vector<device::Transfers::Mark> copied_;    // [offloaded] of the last load
  std::vector<device::Transfers::Mark> computed_;  // [places] of the last use
  ExpertCounters counters_;
};

}  // namespace longshore::offload
