#include "bench/offload_bench.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "base/clock.h"
#include "bench/marked_backend.h"
#include "bench/offload_beside.h"
#include "bench/sequence.h"
#include "bench/step_breakdown.h"
#include "bench/wire_load.h"
#include "device/graphs.h"
#include "kernels/route_exchange.h"
#include "model/cost.h"
#include "offload/routing.h"

namespace longshore::bench {
namespace {

constexpr int64_t kMoeLayers = 75;  // of GLM-5.1

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class OffloadBench {
 public:
  OffloadBench(session::LoadedModel& loaded, const OffloadBenchOptions& options,
               const CancelToken& cancel)
      : loaded_(loaded), options_(options), cancel_(cancel) {}

  Result<Report> run() {
    report_.bench = fmt::format("offload {}", loaded_.checkpoint->where());
    report_.machine =
        fmt::format("{}, {}", machine_name(loaded_.pool->size()), loaded_.backend->name());
    LS_TRY_VOID(measure_ceilings());
    if (options_.decode) {
      for (const std::string& routing : options_.routing) {
        for (const double budget : options_.budgets) LS_TRY_VOID(decode(routing, budget));
      }
    }
    if (options_.grouped) LS_TRY_VOID(grouped());
    if (options_.prefill) LS_TRY_VOID(wire_loads());
    for (const int64_t ring : options_.rings) {
      if (options_.prefill) LS_TRY_VOID(prefill_with(ring));
    }
    return report_;
  }

 private:
  [[nodiscard]] const offload::ExpertStore& store() const { return loaded_.model->experts(); }
  [[nodiscard]] int64_t moe_layers() const { return store().experts().layers(); }
  void row(const std::string& name, double value, const char* unit, double bound = 0) {
    report_.rows.push_back({name, value, unit, bound});
  }

  // A model whose slots hold that share of the experts.
  Result<void> remake(offload::StoreOptions offload, double share) {
    const model::StepLimits limits = loaded_.model->limits();
    offload.cpu = loaded_.cpu_backend.get();
    const offload::HostExperts& experts = store().experts();
    offload.budget_bytes =
        static_cast<int64_t>(share * static_cast<double>(experts.size()) *
                             static_cast<double>(offload::DeviceBank::block_bytes(experts)));
    loaded_.engine.reset();
    loaded_.model.reset();
    LS_TRY(loaded_.model,
           model::Model::create(*loaded_.checkpoint, *loaded_.backend, limits, offload));
    // A shared machine changes from minute to minute: the bound of a case is what was measured just
    // before it.
    if (store().device() != nullptr) costs_ = store().device()->measured();
    return {};
  }

  Result<void> measure_ceilings() {
    if (store().device() == nullptr)
      return fail(ErrorKind::kUsage,
                  "bench offload needs --device cuda and experts beyond its memory");
    // As create() measured them, both at once.
    costs_ = store().device()->measured();
    bytes_ = store().expert_bytes();
    report_.ceilings = {{"wire GB/s, CPU busy", costs_->wire_bytes_per_second / 1e9},
                        {"CPU experts GB/s, wire busy",
                         static_cast<double>(bytes_) / costs_->cpu_seconds_one_token / 1e9},
                        {"device memory GB/s", options_.device_gbs}};
    LS_TRY(wire_alone_, measure_wire());
    report_.ceilings.push_back({"wire GB/s, alone", wire_alone_ / 1e9});
    return measure_handshake();
  }

  // Bytes/s of experts' copies with nothing else going on.
  Result<double> measure_wire() {
    constexpr int kCopies = 32;
    kernels::Backend& backend = *loaded_.backend;
    device::Transfers& wire = *backend.transfers();
    const std::span<const std::byte> host = loaded_.checkpoint->memory().front();
    const auto size = static_cast<int64_t>(host.size());
    const int64_t bytes = std::min(size, int64_t{40} << 20);
    LS_TRY(const device::Buffer to, device::Buffer::allocate(backend.memory(), bytes, "a copy"));
    double best = 0;
    for (int round = 0; round < 3; ++round) {
      const auto begin = wire.copied();
      for (int64_t i = 0; i < kCopies; ++i)
        wire.copy(to.data(), host.data() + i % (size / bytes) * bytes, bytes);
      const auto end = wire.copied();
      while (!wire.passed(end)) {
      }
      const auto seconds = wire.seconds_between(begin, end);
      if (seconds) best = std::max(best, static_cast<double>(kCopies * bytes) / *seconds);
    }
    return best;
  }

  // A graph of layers in which the device publishes one token's routes, the host sees them and
  // answers, and the device takes the answer: nothing else.
  Result<void> measure_handshake() {
    kernels::Backend& backend = *loaded_.backend;
    auto* graphs = dynamic_cast<device::Graphs*>(&backend);
    auto* exchange = kernels::RouteExchange::of(backend);
    if (graphs == nullptr || exchange == nullptr) return {};
    constexpr int64_t kLayers = 64, kTopK = 8, kLine = 64;
    const int64_t hidden = loaded_.checkpoint->config().hidden_size;
    const int64_t act = dtype_size(backend.activation_dtype());
    device::Memory& memory = backend.memory();
    device::Memory& mapped = backend.transfers()->mapped();
    // ids, weights, taken routes, an entry; x behind them.
    LS_TRY(const device::Buffer here, device::Buffer::allocate(memory, hidden * act + 2048, "x"));
    LS_TRY(const device::Buffer there, device::Buffer::allocate(mapped, hidden * act + 2048, "x"));
    LS_TRY(const device::Buffer words, device::Buffer::allocate(mapped, kLayers * kLine, "words"));
    LS_TRY(const device::Buffer answer, device::Buffer::allocate(mapped, kTopK * 8, "decisions"));
    const auto ints = [](const device::Buffer& buffer, int64_t at) {
      return reinterpret_cast<int32_t*>(buffer.data() + at);
    };
    auto* decisions = reinterpret_cast<uint64_t*>(answer.data());
    graphs->begin_capture();
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      exchange->publish_routes(
          {.ids = ints(here, 0),
           .count = kTopK,
           .to_ids = ints(there, 0),
           .weights = reinterpret_cast<const float*>(here.data() + 256),
           .to_weights = reinterpret_cast<float*>(there.data() + 256),
           .x = {here.data() + 2048, backend.activation_dtype(), 1, hidden, hidden},
           .to_x = there.data() + 2048,
           .ready = ints(words, layer * kLine)});
      exchange->take_routes({.decisions = decisions,
                             .tag = static_cast<uint64_t>(layer) + 1,
                             .count = kTopK,
                             .blocks = {.base = here.data()},
                             .table = reinterpret_cast<kernels::ExpertView*>(here.data() + 1024),
                             .to_now = ints(here, 512),
                             .to_later = ints(here, 768)});
    }
    LS_TRY(const device::Graphs::Id graph, graphs->end_capture());
    std::vector<double> seconds;
    for (int round = 0; round < 12; ++round) {
      std::memset(words.data(), 0, static_cast<size_t>(words.bytes()));
      std::memset(answer.data(), 0, static_cast<size_t>(answer.bytes()));
      graphs->launch(graph);
      const auto end = backend.transfers()->computed();
      Stopwatch watch;
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        const std::atomic_ref<int32_t> ready(*ints(words, layer * kLine));
        for (int polls = 1; ready.load(std::memory_order_acquire) == 0; ++polls) {
          if (polls % 4096 == 0 && backend.transfers()->passed(end)) return backend.synchronize();
        }
        if (layer == 0) watch = Stopwatch();  // the launch is not the handshake's
        for (int64_t i = 0; i < kTopK; ++i) {
          std::atomic_ref<uint64_t>(decisions[i])
              .store(kernels::RouteDecision::word(static_cast<uint64_t>(layer) + 1,
                                                  kernels::RouteDecision::kElsewhere, 0, 0),
                     std::memory_order_release);
        }
      }
      LS_TRY_VOID(backend.synchronize());
      seconds.push_back(watch.seconds() / kLayers);
    }
    graphs->drop(graph);
    row("handshake of a layer", median(seconds) * 1e6, "us");
    return {};
  }

  // The least time that a layer with these many missing experts of one token takes: wire and CPU
  // both at work until one of them is done, the other then alone.
  [[nodiscard]] double layer_bound(int64_t misses) const {
    double best = 1e9;
    for (int64_t fetched = 0; fetched <= misses; ++fetched) {
      const double wire = static_cast<double>(fetched * bytes_) / costs_->wire_bytes_per_second;
      const double cpu = static_cast<double>(misses - fetched) * costs_->cpu_seconds_one_token;
      const double faster = wire < cpu ? cpu_alone_ / costs_->cpu_seconds_one_token
                                       : costs_->wire_bytes_per_second / wire_alone_;
      const double both = std::min(wire, cpu);
      best = std::min(best, both + (std::max(wire, cpu) - both) * std::min(faster, 1.0));
    }
    return best;
  }

  // Seconds of an expert of one token on the CPU, nothing on the wire; the mean of a few.
  double measure_cpu() {
    kernels::Backend& cpu = *loaded_.cpu_backend;
    const offload::HostExperts& experts = store().experts();
    const int64_t count = std::min<int64_t>(experts.per_layer(), 32);
    const int64_t hidden = loaded_.checkpoint->config().hidden_size;
    const int64_t act = dtype_size(cpu.activation_dtype());
    const std::vector<std::byte> x(static_cast<size_t>(hidden * act));
    std::vector<float> y(static_cast<size_t>(hidden));
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::iota(ids.begin(), ids.end(), 0);
    const std::vector<float> weights(ids.size(), 1.0F);
    kernels::ExpertsParams params;
    params.x = {x.data(), cpu.activation_dtype(), 1, hidden, hidden};
    params.ids = ids.data();
    params.weights = weights.data();
    params.top_k = count;
    params.experts = experts.views().data();
    params.num_experts = count;
    params.shape = kernels::shape_of(params.experts[0]);
    params.mixed = true;
    params.y = {reinterpret_cast<std::byte*>(y.data()), DType::kF32, 1, hidden, hidden};
    cpu.experts(params);  // wakes the threads
    constexpr int kRounds = 3;
    const Stopwatch watch;
    for (int round = 0; round < kRounds; ++round) cpu.experts(params);
    return watch.seconds() / kRounds / static_cast<double>(count);
  }

  [[nodiscard]] double device_bound(const offload::ExpertCounters& c, int64_t steps) const {
    if (options_.device_gbs <= 0) return 0;
    const double dense = static_cast<double>(model::step_bytes(loaded_.model->weights()));
    const double experts = static_cast<double>((c.hits + c.fetched) * bytes_);
    return (dense * static_cast<double>(steps) + experts) / (options_.device_gbs * 1e9);
  }

  Result<void> decode(const std::string& routing, double budget) {
    offload::StoreOptions offload;
    LS_TRY_VOID(remake(offload, budget));
    LS_TRY_VOID(force(routing));
    for (const int64_t batch : options_.batches) {
      LS_TRY_VOID(decode_batch(
          fmt::format("{}, {:.0f} % resident, batch {}", routing, budget * 100, batch), batch));
    }
    return {};
  }

  Result<void> force(const std::string& routing) {
    forced_.reset();
    if (routing == "model") return {};
    const offload::HostExperts& experts = store().experts();
    LS_TRY(offload::Routing made,
           offload::Routing::parse(routing, static_cast<int32_t>(experts.layers()),
                                   static_cast<int32_t>(experts.per_layer()), options_.seed));
    forced_ = std::make_unique<offload::Routing>(std::move(made));
    loaded_.model->experts().force(forced_.get());
    return {};
  }

  // By captured steps, the same with stamps between their parts on a marked backend, without shared
  // experts, and operation by operation in turn, as a shared machine changes.
  Result<void> decode_batch(const std::string& name, int64_t batch) {
    const bool graphs = loaded_.options.graphs.on;
    Times taken;
    Times whole;  // no expert shared
    Times plain;
    Times marked;
    StepBreakdown parts;
    std::vector<offload::Costs::Start> ceilings = {store().device()->measured()};
    for (int turn = 0; turn < 2; ++turn) {
      LS_TRY_VOID(time_steps(batch, taken));
      LS_TRY_VOID(time_parts(batch, marked, parts));
      LS_TRY_VOID(measure_again(ceilings));
      loaded_.model->experts().device()->share_misses(false);
      const auto unshared = time_steps(batch, whole);
      loaded_.model->experts().device()->share_misses(true);
      LS_TRY_VOID(unshared);
      if (!graphs) continue;
      loaded_.options.graphs.on = false;
      const auto done = time_steps(batch, plain);
      loaded_.options.graphs.on = true;
      LS_TRY_VOID(done);
      LS_TRY_VOID(measure_again(ceilings));
    }
    write_case(name, batch, taken, ceilings);
    if (stamp_seconds_ > 0) {
      parts.write(report_, name + ": parts", taken.mean(), stamp_seconds_);
      parts.write_host(report_, name + ": parts", marked.used);
    }
    row(name + ": whole experts only", static_cast<double>(batch) / whole.mean(), "tokens/s");
    if (!graphs) return {};
    row(name + ": operation by operation", static_cast<double>(batch) / plain.mean(), "tokens/s");
    row(name + ": captured against that", plain.mean() / taken.mean(), "times");
    return {};
  }

  struct Times {
    std::vector<double> seconds;   // of each step
    std::vector<int64_t> misses;   // of each layer of all of them
    offload::ExpertCounters used;  // by all of them
    double warming = 0;            // seconds of a step before those that count
    [[nodiscard]] double mean() const {
      double all = 0;
      for (const double s : seconds) all += s;
      return all / static_cast<double>(seconds.size());
    }
  };

  // As time_steps(), with the parts of the steps that count; nothing without a marked backend.
  Result<void> time_parts(int64_t batch, Times& times, StepBreakdown& parts) {
    StepMarks* marks = marks_of(*loaded_.backend);
    if (marks == nullptr) return {};
    name_parts(*loaded_.backend, loaded_.model->weights());
    LS_TRY(stamp_seconds_, marks->stamp_seconds());
    marks->mark(true);
    auto done = time_steps(batch, times, marks, &parts);
    marks->mark(false);
    return done;
  }

  // marks, parts: of each step that counts, or null.
  Result<void> time_steps(int64_t batch, Times& times, StepMarks* marks = nullptr,
                          StepBreakdown* parts = nullptr) {
    // The slots fill, and the worth of experts settles, before anything counts.
    constexpr int64_t kWarmUp = 40;
    const int64_t length = options_.context + batch * (kWarmUp + options_.steps);
    LS_TRY(Sequence sequence, Sequence::create(loaded_, length, options_.seed));
    LS_TRY_VOID(sequence.advance_to(options_.context, 64, cancel_, "while filling the context"));
    for (int64_t i = 0; i < kWarmUp; ++i) {
      LS_TRY(const double step, timed_step(sequence, batch));
      if (times.seconds.empty()) times.warming += step / kWarmUp;
    }
    const offload::ExpertCounters before = store().counters();
    for (int64_t i = 0; i < options_.steps; ++i) {
      if (marks != nullptr) marks->begin_step();
      LS_TRY(const double step, timed_step(sequence, batch));
      times.seconds.push_back(step);
      if (marks != nullptr) {
        LS_TRY(const StepTime parts_of_step, marks->end_captured_step());
        parts->add(parts_of_step, step);
      }
      const std::vector<int64_t>& misses = store().device()->misses_of_step();
      times.misses.insert(times.misses.end(), misses.begin(), misses.end());
    }
    times.used = times.used + (store().counters() - before);
    return {};
  }

  Result<void> measure_again(std::vector<offload::Costs::Start>& ceilings) {
    LS_TRY(const offload::Costs::Start now, loaded_.model->experts().device()->measure());
    ceilings.push_back(now);
    cpu_alone_seen_.push_back(measure_cpu());
    return {};
  }

  // The bound of a case is made of what wire and CPU did, both at once, just before it, between its
  // turns and just after.
  void take_ceilings(const std::vector<offload::Costs::Start>& ceilings) {
    offload::Costs::Start mean = ceilings.front();
    mean.wire_bytes_per_second = 0;
    mean.cpu_seconds_one_token = 0;
    for (const offload::Costs::Start& c : ceilings) {
      const auto count = static_cast<double>(ceilings.size());
      mean.wire_bytes_per_second += c.wire_bytes_per_second / count;
      mean.cpu_seconds_one_token += c.cpu_seconds_one_token / count;
    }
    costs_ = mean;
    cpu_alone_ = std::accumulate(cpu_alone_seen_.begin(), cpu_alone_seen_.end(), 0.0) /
                 static_cast<double>(cpu_alone_seen_.size());
    cpu_alone_seen_.clear();
  }

  void write_case(const std::string& name, int64_t batch, const Times& times,
                  const std::vector<offload::Costs::Start>& ceilings) {
    take_ceilings(ceilings);
    const offload::ExpertCounters& used = times.used;
    const auto steps = static_cast<double>(times.seconds.size());
    const double step = times.mean();
    double bound = 0;
    for (const int64_t misses : times.misses) bound += layer_bound(misses);
    bound = (bound + device_bound(used, static_cast<int64_t>(times.seconds.size()))) / steps;
    const double tokens = static_cast<double>(batch);
    const auto layers = static_cast<double>(moe_layers());
    const auto share = [&](double seconds) { return 100 * seconds / steps / step; };
    row(name, tokens / step, "tokens/s", batch == 1 ? tokens / bound : 0);
    row(name + ": wire, CPU busy", costs_->wire_bytes_per_second / 1e9, "GB/s");
    row(name + ": CPU experts, wire busy",
        static_cast<double>(bytes_) / costs_->cpu_seconds_one_token / 1e9, "GB/s");
    row(name + ": CPU experts alone", static_cast<double>(bytes_) / cpu_alone_ / 1e9, "GB/s");
    row(name + ": step", step * 1e3, "ms", 0);
    row(name + ": median step", median(times.seconds) * 1e3, "ms", 0);
    row(name + ": step while warming up", times.warming * 1e3, "ms", 0);
    row(name + ": projected to 75 MoE layers",
        tokens / step * layers / static_cast<double>(kMoeLayers), "tokens/s");
    row(name + ": hit rate",
        100 * static_cast<double>(used.hits) / static_cast<double>(used.routed_experts), "%");
    row(name + ": fetched a layer", static_cast<double>(used.fetched) / steps / layers, "experts");
    row(name + ": on the CPU a layer", static_cast<double>(used.computed_on_cpu) / steps / layers,
        "experts");
    row(name + ": shared by both a layer", static_cast<double>(used.shared) / steps / layers,
        "experts");
    row(name + ": CPU computing", share(used.cpu_seconds), "% of the step");
    row(name + ": CPU experts in the steps",
        used.cpu_seconds > 0 ? static_cast<double>(used.cpu_bytes) / used.cpu_seconds / 1e9 : 0,
        "GB/s");
    row(name + ": wire busy", share(used.wire_seconds), "% of the step");
    row(name + ": wire in the steps",
        used.wire_seconds > 0 ? static_cast<double>(used.wire_bytes) / used.wire_seconds / 1e9 : 0,
        "GB/s");
    row(name + ": waiting for routes", share(used.handshake_seconds), "% of the step");
    row(name + ": handing over copies, in part while computing", share(used.queueing_seconds),
        "% of the step");
    row(name + ": bookkeeping", share(used.policy_seconds), "% of the step");
    row(name + ": launch, head, logits",
        100 - share(used.cpu_seconds + used.handshake_seconds + used.queueing_seconds -
                    used.overlapped_seconds + used.policy_seconds),
        "% of the step");
  }

  Result<double> timed_step(Sequence& sequence, int64_t tokens) {
    if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    const Stopwatch watch;
    LS_TRY_VOID(sequence.step(tokens));
    return watch.seconds();
  }

  // As users of whole-layer offloading have it: one layer of two streams, the next one comes ahead.
  Result<void> grouped() {
    offload::StoreOptions offload;
    offload.group = {1, 1, 2};
    LS_TRY_VOID(remake(offload, 0));
    const std::string name = "whole layers streamed, batch 1";
    LS_TRY(Sequence sequence, Sequence::create(loaded_, 64, options_.seed));
    for (int i = 0; i < 2; ++i) LS_TRY_VOID(timed_step(sequence, 1));
    constexpr int kSteps = 4;
    const Stopwatch watch;
    for (int i = 0; i < kSteps; ++i) LS_TRY_VOID(timed_step(sequence, 1));
    const double seconds = watch.seconds() / kSteps;
    const double layer = static_cast<double>(store().experts().per_layer() * bytes_);
    row(name, 1 / seconds, "tokens/s", wire_alone_ / layer / static_cast<double>(moe_layers()));
    return {};
  }

  // Where steps run beside prompts: what each part of such a step takes of the wire.
  Result<void> wire_loads() {
    const bool beside = std::any_of(options_.beside.begin(), options_.beside.end(),
                                    [](int64_t sequences) { return sequences > 0; });
    const bool graphs = dynamic_cast<device::Graphs*>(loaded_.backend.get()) != nullptr;
    if (!beside || !graphs || loaded_.cpu_backend == nullptr) return {};
    return measure_wire_loads(loaded_, wire_alone_, cancel_, report_);
  }

  Result<void> prefill_with(int64_t ring) {
    offload::StoreOptions offload;
    if (ring > 0) offload.ring = ring;
    LS_TRY_VOID(remake(offload, 0));
    const std::string name = ring > 0 ? fmt::format("ring of {}, ", ring) : "";
    for (const int64_t chunk : options_.chunks) LS_TRY_VOID(prefill(name, chunk));
    for (const int64_t chunk : options_.chunks) LS_TRY_VOID(beside(name, chunk));
    return {};
  }

  Result<void> prefill(const std::string& before, int64_t chunk) {
    if (chunk > loaded_.model->limits().tokens) return {};
    constexpr int64_t kChunks = 3;
    LS_TRY(Sequence sequence, Sequence::create(loaded_, chunk * kChunks, options_.seed));
    std::vector<double> seconds;
    std::vector<double> rates;
    for (int64_t i = 0; i < kChunks; ++i) {
      const offload::ExpertCounters before = store().counters();
      LS_TRY(const double step, timed_step(sequence, chunk));
      const offload::ExpertCounters used = store().counters() - before;
      if (i == 0) continue;
      seconds.push_back(step);
      rates.push_back(static_cast<double>(used.wire_bytes) / step / 1e9);
    }
    const std::string name = fmt::format("{}prefill in chunks of {}", before, chunk);
    row(name + ": wire", median(rates), "GB/s", wire_alone_ / 1e9);
    row(name, static_cast<double>(chunk) / median(seconds), "tokens/s");
    row(name + ": projected to 75 MoE layers",
        static_cast<double>(chunk * moe_layers()) / median(seconds) /
            static_cast<double>(kMoeLayers),
        "tokens/s");
    return {};
  }

  // A prompt in one pass, alone and beside those who decode: in its pauses as far as it may be held
  // up, in each of them, and mixed into it.
  Result<void> beside(const std::string& before, int64_t chunk) {
    if (chunk >= loaded_.model->limits().tokens) return {};
    BesideOptions asked{
        .before = before, .chunk = chunk, .wire_alone = wire_alone_, .seed = options_.seed};
    for (const int64_t sequences : options_.beside) {
      asked.sequences = sequences;
      const double usual = engine::EngineOptions().beside_share;
      for (const double share : {usual, std::numeric_limits<double>::infinity(), -1.0}) {
        asked.share = share;
        if (sequences > 0 || share == usual)
          LS_TRY_VOID(beside_prompts(loaded_, asked, cancel_, report_));
      }
    }
    return {};
  }

  session::LoadedModel& loaded_;
  const OffloadBenchOptions& options_;
  const CancelToken& cancel_;
  Report report_;
  std::optional<offload::Costs::Start> costs_;
  int64_t bytes_ = 0;
  double wire_alone_ = 0;     // bytes/s
  double cpu_alone_ = 0;      // seconds of an expert
  double stamp_seconds_ = 0;  // as StepMarks says; 0: no parts are asked for
  std::vector<double> cpu_alone_seen_;
  std::unique_ptr<offload::Routing> forced_;
};

}  // namespace

Result<Report> offload_bench(session::LoadedModel& loaded, const OffloadBenchOptions& options,
                             const CancelToken& cancel) {
  return OffloadBench(loaded, options, cancel).run();
}

}  // namespace longshore::bench
