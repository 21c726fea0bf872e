// The experts of a model whose device cannot hold them all: some in slots, some fetched when
// wanted, some computed by the CPU where they lie, every route once.
//
// A step of few tokens (decode): the host reads the layer's routes, computes what is in slots at
// once on the device, splits what is missing between wire and CPU so that both end together
// (split.h), and keeps what it fetched in the slots of what is worth least (slots.h). A step of
// many tokens (prefill): what is missing streams through a ring of blocks, the layer after it
// ahead, and the slots stay as they are. Specification: docs/decisions/expert-offload.md.
//
// Ownership: owns device memory; experts, backend and the CPU's backend outlive it. Threading: the
// thread that calls the backend.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "offload/costs.h"
#include "offload/counters.h"
#include "offload/cpu_lane.h"
#include "offload/device_bank.h"
#include "offload/host_experts.h"
#include "offload/slots.h"
#include "offload/split.h"
#include "offload/trace.h"

namespace longshore::offload {

// Which expert each token goes to, in the order of the router.
struct Routes {
  const int32_t* ids = nullptr;    // [tokens, top_k]
  const float* weights = nullptr;  // [tokens, top_k]
  int64_t top_k = 0;
};

struct DeviceExpertsOptions {
  int64_t slots = 0;       // experts that stay on the device
  int64_t ring = 32;       // blocks that experts stream through
  int64_t max_tokens = 0;  // of one step
  int64_t max_top_k = 0;
  int64_t hidden = 0;
  int64_t decode_tokens = 64;  // steps with more stream
  double half_life = 256;      // of an expert's worth, in steps
  // Forces the fetched share of the misses, 0 to 1, for tests and measurements; negative: as costs
  // say.
  double forced_fetch = -1;
  std::optional<Costs::Start> costs = std::nullopt;  // nothing: measured by create()
};

class DeviceExperts {
 public:
  // cpu: computes experts in host memory, of the same activation type; nullptr: every miss is
  // fetched. kMemory, kDevice, kModel.
  static Result<std::unique_ptr<DeviceExperts>> create(const HostExperts& experts,
                                                       kernels::Backend& device,
                                                       kernels::Backend* cpu,
                                                       const DeviceExpertsOptions& options);

  ~DeviceExperts();
  DeviceExperts(const DeviceExperts&) = delete;
  DeviceExperts& operator=(const DeviceExperts&) = delete;

  // y[t] += the routed experts of token t. index: the layer's, from 0 in the store. x [tokens,
  // hidden] act, y fp32, routes: in the device's memory.
  void run(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y);
  // A step of so many tokens begins: the first layer of a long one comes ahead.
  void begin_step(int64_t tokens);
  // All of a step has been waited for: pins go, time goes on.
  void end_step();
  // Uses at most so many of the slots that create() took, from the next step on. Any thread.
  void limit_slots(int64_t slots) { asked_slots_.store(slots); }

  // Of the last call.
  [[nodiscard]] std::vector<Routed> routed() const { return routed_of(tokens_of_); }
  // [per_layer] tokens that the last call routed to each expert of its layer.
  [[nodiscard]] const std::vector<int32_t>& tokens_of() const { return tokens_of_; }
  [[nodiscard]] const ExpertCounters& counters() const { return counters_; }
  [[nodiscard]] int64_t pool_bytes() const { return bank_.blocks() * bank_.copied_bytes(); }
  // Missing experts of each call of the last step.
  [[nodiscard]] const std::vector<int64_t>& misses_of_step() const { return last_misses_; }
  // What create() was given or measured.
  [[nodiscard]] const Costs::Start& measured() const { return start_; }
  [[nodiscard]] bool has_cpu() const { return cpu_ != nullptr; }
  [[nodiscard]] const Slots& slots() const { return slots_; }
  [[nodiscard]] const Costs& costs() const { return costs_; }

 private:
  using Mark = device::Transfers::Mark;

  DeviceExperts(const HostExperts& experts, kernels::Backend& device, kernels::Backend* cpu,
                const DeviceExpertsOptions& options);
  Result<void> take_memory();
  Result<Costs::Start> measure();

  // One layer's call: what it was asked and what the host knows of it.
  struct Layer {
    int64_t index;
    ConstMatrixView x;
    Routes routes;
    MatrixView y;
    [[nodiscard]] int64_t tokens() const { return x.rows; }
  };
  void read_routes(const Layer& layer);
  void settle();  // after the handshake: everything queued before has passed
  void decode(const Layer& layer);
  void stream(const Layer& layer);
  std::vector<int32_t> pin_hits(const Layer& layer);
  Split decide(const Layer& layer, const std::vector<int32_t>& misses);
  void fetch(std::span<const int32_t> experts);
  void compute_on_device(const Layer& layer, std::span<const int32_t> experts);
  // On the lane; the sum is added on the device when it is there.
  void start_on_cpu(const Layer& layer, std::span<const int32_t> experts);
  void add_from_cpu(const Layer& layer);
  void finish_cpu();

  // The ring: blocks [slots, slots + ring) of the bank.
  struct Block {
    int32_t expert = -1;  // in it or on its way, and not computed yet
    Mark copied = 0;
    Mark computed = 0;  // the last use of what was in it
  };
  // Takes a free block, of which there is one.
  void stream_in(int32_t expert);
  // The blocks of these experts are free once what is queued has passed.
  void stream_out(std::span<const int32_t> experts);
  void stream_ahead(int64_t index);
  void drop_stale(int64_t index);
  [[nodiscard]] int64_t find_in_ring(int32_t expert) const;
  [[nodiscard]] Block& block_of(int32_t expert);

  const HostExperts& experts_;
  kernels::Backend& device_;
  kernels::Backend* cpu_;
  device::Transfers& wire_;
  DeviceExpertsOptions options_;
  DeviceBank bank_;
  Slots slots_;
  std::atomic<int64_t> asked_slots_;  // the limit of the next step
  Costs costs_;
  Costs::Start start_;
  ExpertCounters counters_;
  std::vector<int64_t> misses_;  // of the running step
  std::vector<int64_t> last_misses_;

  std::vector<Block> ring_;
  std::vector<int32_t> free_blocks_;  // of the ring, the one that was freed first at the front

  // Mapped: written by the device, read by the host, and the other way.
  device::Buffer host_ids_;      // [max_tokens, max_top_k] int32
  device::Buffer host_weights_;  // [decode_tokens, max_top_k] fp32
  device::Buffer host_x_;        // [decode_tokens, hidden] act
  device::Buffer host_y_;        // [decode_tokens, hidden] fp32
  device::Buffer flag_;          // int32: CPU jobs that are done
  // In the device's memory.
  device::Buffer keep_;    // [per_layer] int32
  device::Buffer masked_;  // [max_tokens, max_top_k] int32

  std::vector<int32_t> tokens_of_;  // [per_layer] tokens routed to each expert in this call
  std::vector<int32_t> wanted_;     // experts of the store that this call wants, ascending
  std::vector<int32_t> host_keep_;  // [per_layer] scratch
  std::vector<int32_t> cpu_ids_;    // [decode_tokens, max_top_k] scratch
  std::vector<int32_t> pinned_;     // slots pinned by layers that may still run
  std::vector<int32_t> loading_;    // slots whose copies may still run
  struct Observation {
    Mark begin;
    Mark end;
    int64_t bytes;
    bool undisturbed;  // no copy of it waited for the device's computing
  };
  struct CpuJob {
    std::vector<int64_t> tokens;  // of each expert; empty: none is running
    double seconds = 0;           // written by the lane
  };
  CpuJob cpu_job_;
  uint32_t cpu_jobs_ = 0;
  CpuLane lane_;
  std::vector<Observation> in_flight_;  // fetches whose time is not known yet
};

}  // namespace longshore::offload
