#include "bench/offload_bench.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/clock.h"
#include "bench/sequence.h"
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
    if (options_.prefill) {
      for (const int64_t chunk : options_.chunks) LS_TRY_VOID(prefill(chunk));
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
    constexpr int64_t kBytes = int64_t{40} << 20;
    constexpr int kCopies = 32;
    kernels::Backend& backend = *loaded_.backend;
    device::Transfers& wire = *backend.transfers();
    LS_TRY(const device::Buffer to, device::Buffer::allocate(backend.memory(), kBytes, "a copy"));
    const std::span<const std::byte> host = loaded_.checkpoint->memory().front();
    double best = 0;
    for (int round = 0; round < 3; ++round) {
      const auto begin = wire.copied();
      const auto pieces = static_cast<int64_t>(host.size()) / kBytes;
      if (pieces == 0) return fail(ErrorKind::kUsage, "bench offload: the model is too small");
      for (int64_t i = 0; i < kCopies; ++i)
        wire.copy(to.data(), host.data() + i % pieces * kBytes, kBytes);
      const auto end = wire.copied();
      while (!wire.passed(end)) {
      }
      const auto seconds = wire.seconds_between(begin, end);
      if (seconds) best = std::max(best, static_cast<double>(kCopies * kBytes) / *seconds);
    }
    return best;
  }

  // The device tells the host a layer's routes: copy, mark, poll, nothing else queued.
  Result<void> measure_handshake() {
    kernels::Backend& backend = *loaded_.backend;
    LS_TRY(const device::Buffer from, device::Buffer::allocate(backend.memory(), 64, "ids"));
    LS_TRY(const device::Buffer to,
           device::Buffer::allocate(backend.transfers()->mapped(), 64, "ids"));
    std::vector<double> seconds;
    for (int i = 0; i < 400; ++i) {
      const Stopwatch watch;
      backend.copy_out(from.data(), 64, to.data());
      const auto mark = backend.transfers()->computed();
      while (!backend.transfers()->passed(mark)) {
      }
      seconds.push_back(watch.seconds());
    }
    row("handshake of a layer", median(seconds) * 1e6, "us");
    return {};
  }

  // The least time that a layer with these many missing experts of one token takes.
  [[nodiscard]] double layer_bound(int64_t misses) const {
    double best = 1e9;
    for (int64_t fetched = 0; fetched <= misses; ++fetched) {
      const double wire = static_cast<double>(fetched * bytes_) / costs_->wire_bytes_per_second;
      const double cpu = static_cast<double>(misses - fetched) * costs_->cpu_seconds_one_token;
      best = std::min(best, std::max(wire, cpu));
    }
    return best;
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

  Result<void> decode_batch(const std::string& name, int64_t batch) {
    // The slots fill, and the worth of experts settles, before anything counts.
    constexpr int64_t kWarmUp = 40;
    const int64_t length = options_.context + batch * (kWarmUp + options_.steps);
    LS_TRY(Sequence sequence, Sequence::create(loaded_, length, options_.seed));
    LS_TRY_VOID(sequence.advance_to(options_.context, 64, cancel_, "while filling the context"));
    for (int64_t i = 0; i < kWarmUp; ++i) LS_TRY_VOID(timed_step(sequence, batch));
    const offload::ExpertCounters before = store().counters();
    std::vector<double> seconds;
    double bound = 0;
    for (int64_t i = 0; i < options_.steps; ++i) {
      LS_TRY(const double step, timed_step(sequence, batch));
      seconds.push_back(step);
      for (const int64_t misses : store().device()->misses_of_step()) bound += layer_bound(misses);
    }
    const offload::ExpertCounters used = store().counters() - before;
    const double steps = static_cast<double>(options_.steps);
    double all = 0;
    for (const double s : seconds) all += s;
    bound = (bound + device_bound(used, options_.steps)) / steps;
    const double tokens = static_cast<double>(batch);
    row(name, tokens * steps / all, "tokens/s", batch == 1 ? tokens / bound : 0);
    row(name + ": CPU experts, wire busy",
        static_cast<double>(bytes_) / costs_->cpu_seconds_one_token / 1e9, "GB/s");
    row(name + ": step", all / steps * 1e3, "ms", 0);
    row(name + ": projected to 75 MoE layers",
        tokens * steps / all * static_cast<double>(moe_layers()) / static_cast<double>(kMoeLayers),
        "tokens/s");
    row(name + ": hit rate",
        100 * static_cast<double>(used.hits) / static_cast<double>(used.routed_experts), "%");
    row(name + ": fetched a layer",
        static_cast<double>(used.fetched) / steps / static_cast<double>(moe_layers()), "experts");
    row(name + ": on the CPU a layer",
        static_cast<double>(used.computed_on_cpu) / steps / static_cast<double>(moe_layers()),
        "experts");
    row(name + ": CPU computing", 100 * used.cpu_seconds / all, "% of the step");
    row(name + ": wire busy", 100 * used.wire_seconds / all, "% of the step");
    row(name + ": waiting for routes", 100 * used.handshake_seconds / all, "% of the step");
    row(name + ": bookkeeping", 100 * used.policy_seconds / all, "% of the step");
    return {};
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

  Result<void> prefill(int64_t chunk) {
    if (chunk > loaded_.model->limits().tokens) return {};
    offload::StoreOptions offload;
    LS_TRY_VOID(remake(offload, 0));
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
    const std::string name = fmt::format("prefill in chunks of {}", chunk);
    row(name + ": wire", median(rates), "GB/s", wire_alone_ / 1e9);
    row(name, static_cast<double>(chunk) / median(seconds), "tokens/s");
    row(name + ": projected to 75 MoE layers",
        static_cast<double>(chunk * moe_layers()) / median(seconds) /
            static_cast<double>(kMoeLayers),
        "tokens/s");
    return {};
  }

  session::LoadedModel& loaded_;
  const OffloadBenchOptions& options_;
  const CancelToken& cancel_;
  Report report_;
  std::optional<offload::Costs::Start> costs_;
  int64_t bytes_ = 0;
  double wire_alone_ = 0;
  std::unique_ptr<offload::Routing> forced_;
};

}  // namespace

Result<Report> offload_bench(session::LoadedModel& loaded, const OffloadBenchOptions& options,
                             const CancelToken& cancel) {
  return OffloadBench(loaded, options, cancel).run();
}

}  // namespace longshore::bench
