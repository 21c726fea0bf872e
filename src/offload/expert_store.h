// Where the routed experts live and who computes them: the model's only way to an expert.
//
// The store is below the model: a MoE layer calls run() and does not know where an expert lies.
// Without a device all experts lie in host memory as they are in the checkpoint, and the CPU
// computes them there. With one, as many as the budget holds lie in its slots; everything resident
// is only a large budget. Each model instance (target, draft) has its own store: nothing that one
// does starts, resets or advances the other's.
//
// Ownership: the checkpoint whose memory the views point into, and the backends, outlive the store.
// Threading: one thread (the engine's) calls everything else; counters() may be read by the
// same thread between steps.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/tensor.h"
#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"
#include "offload/counters.h"
#include "offload/device_bank.h"
#include "offload/device_experts.h"
#include "offload/grouped_experts.h"
#include "offload/host_experts.h"
#include "offload/joined_table.h"
#include "offload/routing.h"
#include "offload/trace.h"

namespace longshore::offload {

// Blocks of a ring on a device with so much memory: half a layer of GLM-5.1, so that so much comes
// ahead while a layer's attention, or a step beside it, has the device; fewer where they would be
// more than a sixteenth of the memory, but a quarter of that at least.
[[nodiscard]] int64_t ring_for(int64_t device_bytes, int64_t block_bytes);

// Read only for a device.
struct StoreOptions {
  int64_t budget_bytes = INT64_MAX;  // of slots; no more than all experts are taken
  int64_t max_tokens = 0;            // of one step
  kernels::Backend* cpu =
      nullptr;                 // computes missing experts where they lie; nullptr: all are fetched
  int64_t ring = 128;          // blocks that missing experts pass through: ring_for()
  int64_t decode_tokens = 64;  // steps with more tokens stream instead of using the CPU
  double half_life = 256;      // steps after which a use of an expert counts half
  double forced_fetch = -1;  // share of the misses that is fetched; negative: as measured costs say
  std::optional<Costs::Start> costs = std::nullopt;
  GroupOptions group = {};  // on: whole layers stream, the budget is not read
  // Dry runs: the device's memory is taken, no expert is read, and experts add nothing.
  bool meta = false;
};

class ExpertStore {
 public:
  // Binds the experts of layers [first_layer, first_layer + layers) of the checkpoint; all of them
  // must be MoE layers. kModel: a tensor is missing or malformed; kMemory, kDevice.
  static Result<ExpertStore> create(const Checkpoint& checkpoint, int64_t first_layer,
                                    int64_t layers, kernels::Backend& backend,
                                    const StoreOptions& options);

  // What create() takes of the backend's memory. kModel.
  static Result<int64_t> device_bytes(const Checkpoint& checkpoint, int64_t first_layer,
                                      int64_t layers, kernels::Backend& backend,
                                      const StoreOptions& options);

  // Bytes of the experts that have no slot of the device. kModel.
  static Result<int64_t> offloaded_bytes(const Checkpoint& checkpoint, int64_t first_layer,
                                         int64_t layers, kernels::Backend& backend,
                                         const StoreOptions& options);

  // The layers' shared experts [layers] in the backend's memory, or none. From then on joins() may
  // hold: run() computes them with the routed ones, in one product, as number per_layer(). Nothing
  // changes where some routed experts are not on the device or the shared ones are of another kind.
  // kMemory, kDevice.
  [[nodiscard]] Result<void> join_shared(std::span<const kernels::ExpertView> shared);
  // Whether a call of so many tokens takes the shared expert's route, the first of each token.
  [[nodiscard]] bool joins(int64_t tokens) const {
    return joined_.has_value() && forced_ == nullptr && tokens <= kMostJoined;
  }
  // With more, now one way is faster, now the other (docs/PERF.md).
  static constexpr int64_t kMostJoined = 256;

  // The layer's router has chosen: what is queued between this and run() goes on while whoever
  // computes its experts prepares. layer: the checkpoint's layer index.
  //   x [tokens, hidden] act, in the backend's memory.
  void announce(int64_t layer, ConstMatrixView x, const Routes& routes);
  // y[t] += sum of the routed experts of token t, each route computed exactly once. After
  // announce() with the same. routes: with the shared expert's where joins() says so.
  //   y [tokens, hidden] fp32, in the backend's memory.
  void run(int64_t layer, ConstMatrixView x, const Routes& routes, MatrixView y);
  // Before a step of so many tokens is queued. While one streams experts through the ring, steps
  // that do not may begin and end in its pauses, where a CPU computes what they miss: the wire is
  // the stream's.
  void begin_step(int64_t tokens);
  // After the work of the step of so many tokens has been waited for.
  void end_step(int64_t tokens);
  // Layers of the step that streams are queued up to their middle, until it ends: while the wire
  // brings the rest of their experts the device has nothing to do. x, routes and y of run() stay
  // until finish_layer().
  void pause_layers() { device_->pause_layers(true); }
  // There is such a rest.
  [[nodiscard]] bool layer_pauses() const { return device_->layer_pauses(); }
  // Queues it, if there is any, and the copies for the layer after it.
  void finish_layer() { device_->finish_layer(); }
  // While a step runs beside a stream, between two layers of it: the wire has copies for longer
  // than a layer of the step took so far.
  [[nodiscard]] bool wire_lasts() { return device_->wire_lasts(); }
  // Between these two the stream may go on, up to a next pause, and the step does not.
  void leave_beside() { device_->leave_beside(); }
  void enter_beside() { device_->enter_beside(); }
  // A step streams: until the device has done what was queued. Seconds that it is behind a stream
  // with nothing beside it, as those were; infinite: not known before its first layer.
  double await_stream() { return device_->await_stream(); }
  // Another store has the wire for itself: from now on the CPU computes what steps miss, where
  // there is one, unless they stream.
  void leave_wire(bool left) {
    if (device_ != nullptr) device_->leave_wire(left);
  }

  // Experts take at most so many bytes of the slots that create() took, from the next step on;
  // their number comes back. Any thread. kUsage: there are no slots, or not as many.
  [[nodiscard]] Result<int64_t> limit_slots(int64_t budget_bytes);
  // Everything is on the device and the router's word stands: the host has no part in a step.
  [[nodiscard]] bool whole_on_device() const {
    return forced_ == nullptr && (resident_.has_value() || experts_->size() == 0);
  }
  // Whether announce() and run() of a step of so many tokens may be captured.
  [[nodiscard]] bool capturable(int64_t tokens) const;
  // Whether the device goes on while the host does its part; if not, nothing is capturable.
  [[nodiscard]] bool concurrent() const { return device_ == nullptr || device_->concurrent(); }
  // While it lives, calls are not counted and do nothing on the host: they are captured, or run
  // once before that.
  class Capturing {
   public:
    explicit Capturing(ExpertStore& store);
    ~Capturing() { store_.counters_ = before_; }
    Capturing(const Capturing&) = delete;
    Capturing& operator=(const Capturing&) = delete;

   private:
    ExpertStore& store_;
    ExpertCounters before_;
    std::optional<DeviceExperts::Capturing> device_;
  };
  // The host's part of a captured step of `rows` rows that was launched for `tokens` tokens, the
  // rows past them repeating the last. kCancelled: the rest of the step computes no expert. A fault
  // of the device is synchronize()'s to report.
  [[nodiscard]] Result<void> serve(int64_t tokens, int64_t rows, const CancelToken* cancel);

  // Every call's routes go to the writer from now on, nullptr: no more. Only where the host sees
  // them: kUsage otherwise.
  [[nodiscard]] Result<void> record(TraceWriter* writer);

  // Benchmarks: the routes of every call are drawn from `routing` instead, which is no trace;
  // nullptr: the model's own again.
  void force(Routing* routing);

  [[nodiscard]] const ExpertCounters& counters() const;
  // Reuses the report's memory.
  void report(StoreReport& into) const;
  // Weight and scale bytes of one expert.
  [[nodiscard]] int64_t expert_bytes() const { return experts_->expert_bytes(); }
  // Experts that the device's slots hold at most, and the memory of slots and ring; 0 without a
  // device.
  [[nodiscard]] int64_t slots() const { return slots_; }
  [[nodiscard]] int64_t pool_bytes() const;
  // Where not everything is resident, else nullptr.
  [[nodiscard]] const DeviceExperts* device() const { return device_.get(); }
  [[nodiscard]] DeviceExperts* device() { return device_.get(); }
  [[nodiscard]] const HostExperts& experts() const { return *experts_; }

 private:
  ExpertStore() = default;
  Result<void> load_all();
  // table: of so many experts.
  void run_here(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y,
                const kernels::ExpertView* table, int64_t experts);
  void count(int64_t index, int64_t tokens, const Routes& routes);
  // What the last layer of device_ routed.
  void note(int64_t index);
  // tokens_of: [per_layer] of one call of the layer.
  void add_uses(int64_t index, const std::vector<int32_t>& tokens_of);

  kernels::Backend* backend_ = nullptr;
  std::unique_ptr<HostExperts> experts_;  // does not move: others point to it
  int64_t slots_ = 0;
  int64_t top_k_ = 0;                        // experts of a token
  std::optional<DeviceBank> resident_;       // all of them
  std::optional<JoinedTable> joined_;        // resident_ and the shared ones
  std::unique_ptr<DeviceExperts> device_;    // some of them
  std::unique_ptr<GroupedExperts> grouped_;  // all of some layers
  ExpertCounters counters_;                  // without device_
  TraceWriter* trace_ = nullptr;
  Routing* forced_ = nullptr;
  bool meta_ = false;
  std::vector<int32_t> drawn_;      // [tokens, top_k] scratch of forced_
  std::vector<int32_t> tokens_of_;  // [per_layer] scratch of count()
  std::vector<int64_t> uses_;       // [layers, per_layer] tokens since the start
};

}  // namespace longshore::offload
