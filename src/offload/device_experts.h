// The experts of a model whose device cannot hold them all: some in slots, some fetched when
// wanted, some computed by the CPU where they lie, every route once.
//
// A step of few tokens (decode): the device publishes a layer's routes and waits; the host decides
// who computes them, splits what is missing between wire and CPU so that both end together
// (split.h), and keeps what it fetched in the slots of what is worth least (slots.h). What the
// device does is queued once, by announce() and run(), in a captured graph as well; what the host
// does is serve(), for every step. A step of many tokens (prefill): what is missing streams through
// a ring of blocks, the layer after it ahead, and the slots stay as they are. In the pauses of such
// a step steps of few tokens may run; the ring and the wire are the stream's meanwhile, and what
// they miss is the CPU's. Specification: docs/decisions/expert-offload.md.
//
// Ownership: owns device memory; experts, backend and the CPU's backend outlive it. Threading: the
// thread that calls the backend.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "device/buffer.h"
#include "kernels/backend.h"
#include "kernels/route_exchange.h"
#include "offload/costs.h"
#include "offload/counters.h"
#include "offload/device_bank.h"
#include "offload/host_experts.h"
#include "offload/routing.h"
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
  int64_t slots = 0;  // experts that stay on the device
  // Blocks that experts stream through, at least 2; with a CPU one of them is for those that it
  // and the wire share.
  int64_t ring = 128;
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

  // Of the device's memory, beside the bank. per_layer: experts.
  [[nodiscard]] static int64_t routing_bytes(const DeviceExpertsOptions& options,
                                             int64_t per_layer);

  ~DeviceExperts();
  DeviceExperts(const DeviceExperts&) = delete;
  DeviceExperts& operator=(const DeviceExperts&) = delete;

  // Whether a step of so many tokens is one that the host serves: not streamed.
  [[nodiscard]] bool serves(int64_t tokens) const;
  // Whether the device goes on while the host serves: steps may be captured.
  [[nodiscard]] bool concurrent() const { return exchange_.concurrent(); }

  // A step of so many tokens begins: the first layer of a long one comes ahead. In the pauses of a
  // long one, of which there is one at a time, short ones may begin and end: there is a CPU.
  void begin_step(int64_t tokens);
  // As ExpertStore's.
  void pause_layers(bool pausing) { pausing_ = pausing; }
  [[nodiscard]] bool layer_pauses() const { return rest_.has_value(); }
  void finish_layer();
  [[nodiscard]] bool wire_lasts();
  void leave_beside();
  void enter_beside();
  double await_stream();
  void leave_wire(bool left) { wire_left_ = left; }
  // The layer's routes are there. What is queued between this and run() goes on while the host
  // decides. index: the layer's, from 0 in the store. x [tokens, hidden] act, routes: in the
  // device's memory.
  void announce(int64_t index, ConstMatrixView x, const Routes& routes);
  // y[t] += the routed experts of token t, y fp32. After announce() with the same.
  void run(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y);

  // While it lives, announce() and run() of a step that serves() only queue, and what is queued
  // waits for nobody and computes no expert: for capturing, and for running once what will be
  // captured.
  class Capturing {
   public:
    explicit Capturing(DeviceExperts& experts);
    ~Capturing() { experts_.capturing_ = false; }
    Capturing(const Capturing&) = delete;
    Capturing& operator=(const Capturing&) = delete;

   private:
    DeviceExperts& experts_;
  };
  [[nodiscard]] bool capturing() const { return capturing_; }
  // A captured step was launched: serve() its layers in their order.
  void launched() { end_ = wire_.computed(); }
  // Waits for the layer's routes, decides, fetches, computes on the CPU. rows: that were captured,
  // of which those past `tokens` repeat the last. false: the device failed, and synchronize() says
  // how.
  [[nodiscard]] bool serve(int64_t index, int64_t tokens, int64_t rows);
  // What is queued of the step runs to its end unserved; its output is worthless.
  void release();
  // All of a step of so many tokens has been waited for: pins go, time goes on.
  void end_step(int64_t tokens);
  // Uses at most so many of the slots that create() took, from the next step on. Any thread.
  void limit_slots(int64_t slots) { asked_slots_.store(slots); }

  // Benchmarks: whether a missing expert may be shared by CPU and wire; it may.
  void share_misses(bool may) { share_misses_ = may; }
  // Benchmarks: routes are drawn instead of the router's; nullptr: its own again.
  void force(Routing* routing) { forced_ = routing; }
  // Wire and CPU experts, both at once, as create() measures them. At idle. kDevice.
  [[nodiscard]] Result<Costs::Start> measure();

  // Of the last layer that ran or was served.
  [[nodiscard]] std::vector<Routed> routed() const { return routed_of(tokens_of_); }
  // [per_layer] tokens that the last call routed to each expert of its layer.
  [[nodiscard]] const std::vector<int32_t>& tokens_of() const { return tokens_of_; }
  [[nodiscard]] const ExpertCounters& counters() const { return counters_; }
  // Benchmarks: of steps beside streams, since the start.
  [[nodiscard]] const BesideCounters& beside() const { return beside_; }
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
  double time_start();

  // The words of a layer by which device and host meet (kernels::RouteExchange).
  enum Word : uint8_t { kReady, kFetched, kSummed, kWords };
  [[nodiscard]] int32_t* word(int64_t index, Word which) const;
  void set(int64_t index, Word which, int32_t value);
  // Until the device has written it; false: it never will.
  [[nodiscard]] bool await_routes(int64_t index);

  // One layer's call: what it was asked and what the host knows of it.
  struct Layer {
    int64_t index;
    ConstMatrixView x;
    Routes routes;
    MatrixView y;
    [[nodiscard]] int64_t tokens() const { return x.rows; }
  };
  void queue(const Layer& layer);
  void stream(const Layer& layer);
  // The next group of the layer that streams, of those before `end` in its order.
  void compute_group(size_t end);
  // Into free blocks, what the layer that streams still misses.
  void stream_in_more();
  void end_stream();
  void compute(const Layer& layer, const int32_t* ids);
  // ids [tokens, top_k]: what is none becomes -1.
  void count_routes(int64_t index, int64_t tokens, int32_t* ids);
  void settle();  // everything queued before the layer has passed
  std::vector<int32_t> pin_hits(int64_t index, bool used);
  Split decide(int64_t index, const std::vector<int32_t>& misses);
  [[nodiscard]] static Split split_by_share(const std::vector<int32_t>& misses, double share,
                                            int64_t room, int64_t pieces);
  // What comes to the device finds its blocks, and the device will.
  void place(const Split& split);
  void tell(int64_t index, int64_t tokens, int64_t rows, std::span<const int32_t> hits,
            const Split& split);
  void fetch(int64_t index, const Split& split);
  void compute_on_cpu(int64_t index, int64_t tokens, int64_t rows, const Split& split,
                      const std::function<void()>& meanwhile);
  // Of the shared expert.
  [[nodiscard]] int64_t columns_on_cpu(int64_t index, const Split& split) const;
  void note_cpu(int64_t index, const Split& split, double seconds);
  void compute_on_device(const Layer& layer, std::span<const int32_t> experts);

  // The ring: the first of the blocks [slots, slots + ring) of the bank.
  struct Block {
    int32_t expert = -1;  // in it or on its way, and not computed yet
    Mark copied = 0;
    Mark computed = 0;  // the last use of what was in it
  };
  // Of the expert that CPU and wire share: the bank's last, which keeps its zeros from layer to
  // layer.
  [[nodiscard]] int64_t shared_block() const { return options_.slots + options_.ring - 1; }
  // Takes a free block, of which there is one.
  int64_t take_block(int32_t expert);
  void stream_in(int32_t expert);
  // The wire's copies into the block are next: how long it had none is known when they have begun.
  void note_gap(const Block& block);
  // Of the experts that were on the wire when the step beside began or went on, those that have
  // come.
  [[nodiscard]] int64_t arrived_beside();
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
  kernels::RouteExchange& exchange_;
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

  // Mapped: written by the device, read by the host, and the other way. The layers of a step use
  // the same, one after the other, but for the words.
  device::Buffer words_;         // [layers, kWords] int32, each in a line of its own
  device::Buffer stream_ids_;    // [max_tokens, max_top_k] int32: routes of a layer that streams
  device::Buffer host_ids_;      // [decode_tokens, max_top_k] int32
  device::Buffer host_weights_;  // [decode_tokens, max_top_k] fp32
  device::Buffer host_x_;        // [decode_tokens, hidden] act
  device::Buffer host_y_;        // [decode_tokens, hidden] fp32
  device::Buffer decisions_;     // [decode_tokens, max_top_k] kernels::RouteDecision
  // In the device's memory.
  device::Buffer keep_;    // [per_layer] int32, of a streamed group
  device::Buffer masked_;  // [max_tokens, max_top_k] int32
  device::Buffer later_;   // [decode_tokens, max_top_k] int32

  std::vector<int32_t> tokens_of_;  // [per_layer] tokens routed to each expert in this call
  std::vector<int32_t> wanted_;     // experts of the store that this call wants, ascending
  std::vector<int32_t> host_keep_;  // [per_layer] scratch
  std::vector<int64_t> blocks_;     // of the fetched experts that place() placed
  std::vector<int32_t> cpu_ids_;    // [decode_tokens, max_top_k] scratch
  std::vector<int32_t> pinned_;     // slots pinned by layers that may still run
  std::vector<int32_t> loading_;    // slots whose copies may still run
  struct Observation {
    Mark begin;
    Mark end;
    int64_t bytes;
    bool undisturbed;  // no copy of it waited for the device's computing
  };
  std::vector<Observation> in_flight_;  // fetches whose time is not known yet
  struct Gap {
    Mark end;    // of the copies before
    Mark begin;  // of the next ones
  };
  std::vector<Gap> gaps_;  // of a stream's copies, whose time is not known yet
  Mark last_copied_ = 0;   // of the running stream
  Mark last_awaited_ = 0;  // by a copy of it
  BesideCounters beside_;
  struct {
    Stopwatch watch;  // since it began or went on
    ExpertCounters before;
    std::vector<Mark> copies;     // of the stream, in their order
    int64_t from = 0;             // of these, that were there then
    int64_t last = 0;             // when wire_lasts() was asked
    int64_t layer = 0;            // that came during a layer of it, at most
  } step_beside_;                 // that runs
  std::vector<int32_t> passing_;  // in the ring for the running layer only
  Mark end_ = 0;                  // of what is queued of the step that is served
  Mark stream_routes_ = 0;        // the routes of the layer that streams are there
  bool streaming_ = false;        // a step has begun that streams, and has not ended
  bool wire_left_ = false;
  // A layer that streams and is not queued to its end.
  struct Rest {
    Layer layer;
    std::vector<int32_t> order;  // experts without a slot
    size_t staged = 0;           // of these, in the ring or on their way
    size_t done = 0;             // of these, computed by what is queued
  };
  std::optional<Rest> rest_;
  bool pausing_ = false;        // layers that stream stop in their middle
  int64_t ahead_bytes_ = 0;     // copied ahead of the next layer of it
  Stopwatch stream_;            // since it began
  int64_t stream_from_ = 0;     // counters_.wire_bytes then
  int64_t stream_layers_ = 0;   // of it that are queued
  bool stream_shared_ = false;  // steps ran beside it
  double stream_rate_ = 0;      // bytes/s of whole streams with nothing beside them, the best
  int64_t top_k_ = 0;
  bool capturing_ = false;
  bool share_misses_ = true;
  bool released_ = false;
  Routing* forced_ = nullptr;
};

}  // namespace longshore::offload
