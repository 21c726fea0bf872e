#include "bench/wire_load.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/threads.h"
#include "device/buffer.h"
#include "device/graphs.h"
#include "kernels/route_exchange.h"

namespace longshore::bench {
namespace {

constexpr int64_t kCopyBytes = int64_t{40} << 20;
constexpr int64_t kCopies = 192;  // some 150 ms of 16 lanes of PCIe 5
constexpr int64_t kTopK = 8;

// What runs while the wire copies.
struct Load {
  int64_t waiting_rows = 0;     // of a sum that the device polls for; 0: it does not
  int64_t waiting_columns = 0;  // of these; each 256 of a row are a block that polls
  int64_t tokens = 0;           // of the CPU's expert calls, one after the other; 0: none
  bool queue_waits = false;     // the device's queue, no kernel of it
};

class WireLoads {
 public:
  WireLoads(session::LoadedModel& loaded, double wire_alone, const CancelToken& cancel,
            Report& report)
      : loaded_(loaded),
        backend_(*loaded.backend),
        graphs_(dynamic_cast<device::Graphs&>(*loaded.backend)),
        cpu_(loaded.cpu_backend.get()),
        hidden_(loaded.checkpoint->config().hidden_size),
        wire_alone_(wire_alone),
        cancel_(cancel),
        report_(report) {}

  Result<void> run() {
    const int64_t sum = kMostTokens * hidden_ * 4;
    LS_TRY(to_, device::Buffer::allocate(backend_.memory(), kCopyBytes, "copies"));
    LS_TRY(y_, device::Buffer::allocate(backend_.memory(), sum, "a sum"));
    LS_TRY(x_, device::Buffer::allocate(backend_.transfers()->mapped(), sum, "a sum"));
    LS_TRY(word_, device::Buffer::allocate(backend_.transfers()->mapped(), 64, "a word"));
    std::fill_n(x_.data(), sum, std::byte{});
    for (const int64_t tokens : {1, 4})
      report_.rows.push_back({fmt::format("CPU experts of {} tokens, wire idle", tokens),
                              time_cpu(tokens, 8) / 1e9, "GB/s"});
    LS_TRY_VOID(measure("a device whose queue waits", {.queue_waits = true}));
    LS_TRY_VOID(measure("a device that waits for 256 columns", {1, 256, 0}));
    LS_TRY_VOID(measure("a device that waits for 1 row", {1, hidden_, 0}));
    LS_TRY_VOID(measure("a device that waits for 4 rows", {4, hidden_, 0}));
    LS_TRY_VOID(measure("CPU experts of 1 token", {0, 0, 1}));
    LS_TRY_VOID(measure("CPU experts of 4 tokens", {0, 0, 4}));
    LS_TRY_VOID(measure("both, of 1 token", {1, hidden_, 1}));
    LS_TRY_VOID(measure("both, of 4 tokens", {4, hidden_, 4}));
    return measure_fewer_threads();
  }

 private:
  static constexpr int64_t kMostTokens = 4;

  Result<void> measure_fewer_threads() {
    ThreadPool half(std::max(loaded_.pool->size() / 2, 1));
    LS_TRY(const auto cpu, kernels::make_cpu_backend(half, loaded_.options.cpu_isa));
    cpu_ = cpu.get();
    return measure("CPU experts of 4 tokens, half of the threads", {0, 0, 4});
  }

  // What the device does; captured, so that nothing has to be loaded while it waits.
  Result<std::optional<device::Graphs::Id>> capture(const Load& load, const int32_t* word) {
    if (!load.queue_waits && load.waiting_rows == 0) return std::nullopt;
    graphs_.begin_capture();
    if (load.queue_waits) backend_.wait_for_host(word, kernels::RouteExchange::kNothing);
    if (load.waiting_rows > 0) {
      const int64_t columns = load.waiting_columns;
      kernels::RouteExchange::of(backend_)->add_when(
          {.x = MatrixView{x_.data(), DType::kF32, load.waiting_rows, columns, columns},
           .y = {y_.data(), DType::kF32, load.waiting_rows, columns, columns}},
          word);
    }
    LS_TRY(const device::Graphs::Id id, graphs_.end_capture());
    return id;
  }

  Result<void> measure(const char* what, const Load& load) {
    if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    device::Transfers& wire = *backend_.transfers();
    auto* word = reinterpret_cast<int32_t*>(word_.data());
    const std::atomic_ref<int32_t> sum_is_there(*word);
    sum_is_there.store(0);
    LS_TRY(const auto graph, capture(load, word));
    if (graph) graphs_.launch(*graph);
    const std::span<const std::byte> host = loaded_.checkpoint->memory().front();
    const auto places = std::max<int64_t>(static_cast<int64_t>(host.size()) / kCopyBytes, 1);
    const int64_t bytes = std::min(static_cast<int64_t>(host.size()), kCopyBytes);
    const auto begin = wire.copied();
    for (int64_t i = 0; i < kCopies; ++i)
      wire.copy(to_.data(), host.data() + i % places * bytes, bytes);
    const auto end = wire.copied();
    double cpu = 0;  // bytes/s
    for (int calls = 0; !wire.passed(end);) {
      if (load.tokens > 0) cpu += (time_cpu(load.tokens, 1) - cpu) / ++calls;
    }
    sum_is_there.store(kernels::RouteExchange::kNothing);
    LS_TRY_VOID(backend_.synchronize());
    if (graph) graphs_.drop(*graph);
    const auto seconds = wire.seconds_between(begin, end);
    if (!seconds) return {};
    report_.rows.push_back({fmt::format("wire beside {}", what),
                            static_cast<double>(kCopies * bytes) / *seconds / 1e9, "GB/s",
                            wire_alone_ / 1e9});
    if (load.tokens > 0)
      report_.rows.push_back({fmt::format("CPU experts, {}", what), cpu / 1e9, "GB/s"});
    return {};
  }

  // Bytes/s of calls of so many tokens, each of which chooses experts of its own, as a step's do
  // beside a stream. Layer after layer: no cache holds them.
  double time_cpu(int64_t tokens, int calls) {
    kernels::Backend& cpu = *cpu_;
    const offload::HostExperts& experts = loaded_.model->experts().experts();
    const int64_t act = dtype_size(cpu.activation_dtype());
    const std::vector<std::byte> x(static_cast<size_t>(tokens * hidden_ * act));
    std::vector<float> y(static_cast<size_t>(tokens * hidden_));
    std::vector<int32_t> ids;
    const int64_t count = std::min(tokens * kTopK, experts.per_layer());
    for (int64_t i = 0; i < tokens * kTopK; ++i) ids.push_back(static_cast<int32_t>(i % count));
    const std::vector<float> weights(ids.size(), 1.0F);
    kernels::ExpertsParams params;
    params.x = {x.data(), cpu.activation_dtype(), tokens, hidden_, hidden_};
    params.ids = ids.data();
    params.weights = weights.data();
    params.top_k = kTopK;
    params.num_experts = experts.per_layer();
    params.mixed = true;  // whatever they are
    params.y = {reinterpret_cast<std::byte*>(y.data()), DType::kF32, tokens, hidden_, hidden_};
    const Stopwatch watch;
    for (int call = 0; call < calls; ++call, ++layer_) {
      params.experts = experts.layer(layer_ % experts.layers());
      params.shape = experts.shape(layer_ % experts.layers());
      cpu.experts(params);
    }
    return static_cast<double>(calls * count * experts.expert_bytes()) / watch.seconds();
  }

  session::LoadedModel& loaded_;
  kernels::Backend& backend_;
  device::Graphs& graphs_;
  kernels::Backend* cpu_;
  int64_t hidden_;
  double wire_alone_;
  const CancelToken& cancel_;
  Report& report_;
  device::Buffer to_, y_, x_, word_;
  int64_t layer_ = 0;
};

}  // namespace

Result<void> measure_wire_loads(session::LoadedModel& loaded, double wire_alone,
                                const CancelToken& cancel, Report& report) {
  return WireLoads(loaded, wire_alone, cancel, report).run();
}

}  // namespace longshore::bench
