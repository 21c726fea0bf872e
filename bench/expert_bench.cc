#include "bench/expert_bench.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/memory.h"
#include "bench/ceilings.h"
#include "bench/expert_batch.h"
#include "kernels/backend.h"
#include "kernels/format/bf16.h"

namespace longshore::bench {
namespace {

constexpr int64_t kLayerExperts = 256;
constexpr int64_t kFewestExperts = 16;  // below, a bank may sit in a large last-level cache
constexpr double kTolerance = 4e-3;     // of the op tests: the intermediate is rounded to bf16

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(ThreadPool& pool, const ExpertBank& bank, kernels::Backend& backend, int repeats,
        const CancelToken& cancel)
      : pool_(pool), bank_(bank), backend_(backend), repeats_(repeats), cancel_(cancel) {}

  // Seconds of one call with `active` experts of `tokens` tokens each; ceiling: GB/s of plain loads
  // in between.
  Result<double> decode(int64_t active, int64_t tokens, double* ceiling) {
    ExpertBatch batch(tokens, active, 7 + static_cast<uint64_t>(tokens));
    const int64_t bytes = std::min<int64_t>(active, bank_.size() / 2) * ExpertBank::kExpertBytes /
                          kMegabyte * kMegabyte;
    std::vector<double> seconds;
    std::vector<double> rates;
    const Stopwatch whole;
    for (int repeat = 0; repeat <= repeats_ || whole.seconds() < kWarmUp + kLeast; ++repeat) {
      if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
      batch.route_together(next_, bank_.size());
      next_ = (next_ + active) % bank_.size();
      std::fill(batch.y.begin(), batch.y.end(), 0.0F);
      const kernels::ExpertsParams params = batch.params(bank_);
      const Stopwatch watch;
      backend_.experts(params);
      const double call = watch.seconds();
      // Half the bank away from the call's experts, so that no cache holds it.
      const int64_t away = (next_ + bank_.size() / 2) % bank_.size();
      const int64_t start = std::min(away * ExpertBank::kExpertBytes,
                                     bank_.size() * ExpertBank::kExpertBytes - bytes);
      const Stopwatch reading;
      read_once(pool_, bank_.data() + start / 64 * 64, bytes);
      if (repeat == 0 || whole.seconds() < kWarmUp) continue;
      rates.push_back(static_cast<double>(bytes) / reading.seconds() / 1e9);
      seconds.push_back(call);
    }
    LS_TRY_VOID(check(batch));
    LS_CHECK(!seconds.empty());
    *ceiling = median(rates);
    return median(seconds);
  }

  Result<double> prefill(int64_t tokens, int repeats) {
    ExpertBatch batch(tokens, std::min(kTopK, bank_.size()), 11);
    std::vector<double> seconds;
    for (int repeat = 0; repeat <= repeats; ++repeat) {
      if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
      batch.route_uniformly(bank_.size(), 3 + static_cast<uint64_t>(repeat));
      std::fill(batch.y.begin(), batch.y.end(), 0.0F);
      const Stopwatch watch;
      backend_.experts(batch.params(bank_));
      if (repeat > 0) seconds.push_back(watch.seconds());
    }
    LS_TRY_VOID(check(batch));
    return median(seconds);
  }

 private:
  static constexpr int64_t kMegabyte = 1 << 20;
  // Seconds of a case, at least: clocks and a hypervisor's scheduling settle slower than a call
  // takes.
  static constexpr double kWarmUp = 0.2;
  static constexpr double kLeast = 0.5;

  // The last token of the batch against the reference backend.
  Result<void> check(ExpertBatch& batch) {
    ExpertBatch one(1, batch.top_k, 1);
    const int64_t last = batch.tokens - 1;
    std::copy_n(batch.ids.end() - batch.top_k, batch.top_k, one.ids.begin());
    std::copy_n(batch.weights.end() - batch.top_k, batch.top_k, one.weights.begin());
    std::vector<float> x(static_cast<size_t>(ExpertBank::kHidden));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = kernels::bf16_to_float(batch.x[static_cast<size_t>(last * ExpertBank::kHidden) + i]);
    }
    kernels::ExpertsParams params = one.params(bank_);
    params.x = {reinterpret_cast<const std::byte*>(x.data()), DType::kF32, 1, ExpertBank::kHidden,
                ExpertBank::kHidden};
    kernels::make_reference_backend(pool_)->experts(params);
    double worst = 0;
    double largest = 0;
    for (size_t i = 0; i < one.y.size(); ++i) {
      const float actual = batch.y[static_cast<size_t>(last * ExpertBank::kHidden) + i];
      worst = std::max(worst, std::abs(static_cast<double>(actual) - one.y[i]));
      if (std::isnan(actual)) worst = HUGE_VAL;
      largest = std::max(largest, std::abs(static_cast<double>(one.y[i])));
    }
    worst_ = std::max(worst_, worst / largest);
    if (worst_ <= kTolerance) return {};
    return fail(ErrorKind::kDevice,
                "{} differs from the reference by {:.2e} of the largest output: a kernel is wrong",
                backend_.name(), worst_);
  }

  ThreadPool& pool_;
  const ExpertBank& bank_;
  kernels::Backend& backend_;
  int repeats_;
  const CancelToken& cancel_;
  int64_t next_ = 0;
  double worst_ = 0;

 public:
  [[nodiscard]] double worst() const { return worst_; }
};

Result<void> decode_rows(Bench& bench, int64_t bank, Report& report) {
  double one = 0;
  const auto row = [&](int64_t active, int64_t tokens) -> Result<void> {
    double ceiling = 0;
    LS_TRY(const double seconds, bench.decode(active, tokens, &ceiling));
    const auto bytes = static_cast<double>(active * ExpertBank::kExpertBytes);
    if (active == kTopK && tokens == 1) one = seconds * ceiling;
    report.rows.push_back({fmt::format("{} experts, {} tokens each", active, tokens),
                           bytes / seconds / 1e9, "GB/s", ceiling});
    if (active == kTopK && tokens > 1) {
      // In reads of the same bytes, so that a change of the machine's speed between the cases drops
      // out.
      report.rows.push_back(
          {fmt::format("{} tokens cost, of one", tokens), seconds * ceiling / one, "x", 0});
    }
    return {};
  };
  for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64})
    LS_TRY_VOID(row(std::min(kTopK, bank), tokens));
  for (const int64_t active : {1, 2, 3, 5}) LS_TRY_VOID(row(active, 1));
  return {};
}

Result<void> prefill_rows(Bench& bench, const ExpertBank& bank, double dram, double peak,
                          Report& report) {
  for (const int64_t tokens : {512, 8192}) {
    LS_TRY(const double seconds, bench.prefill(tokens, tokens > 1000 ? 2 : 5));
    const double flops =
        static_cast<double>(tokens * std::min(kTopK, bank.size())) * ExpertBank::kRouteFlops;
    const double intensity = flops / static_cast<double>(bank.size() * ExpertBank::kExpertBytes);
    report.rows.push_back({fmt::format("prefill, {} tokens", tokens), flops / seconds / 1e9,
                           "GFLOP/s", std::min(peak, dram * intensity)});
  }
  return {};
}

}  // namespace

Result<Report> expert_bench(ThreadPool& pool, const ExpertBenchOptions& options,
                            const CancelToken& cancel) {
  LS_TRY(const std::unique_ptr<kernels::Backend> backend,
         kernels::make_cpu_backend(pool, options.cpu_isa));
  Report report;
  report.bench = "cpu-expert";
  report.machine = fmt::format("{}, {}", machine_name(pool.size()), backend->name());
  LS_TRY(const double dram, dram_read_gbs(pool, cancel));
  const Bf16Peak peak = bf16_peak(pool);
  report.ceilings = {{"DRAM read GB/s", dram}, {fmt::format("{} GFLOP/s", peak.unit), peak.gflops}};
  if (peak.zeros_gflops > 0) {
    report.ceilings.push_back({fmt::format("{} GFLOP/s of zeros", peak.unit), peak.zeros_gflops});
  }
  const int64_t fit = available_memory() / 2 / ExpertBank::kExpertBytes;
  const int64_t experts =
      options.experts > 0 ? options.experts : std::clamp(fit, kFewestExperts, kLayerExperts);
  LS_TRY(const ExpertBank bank, ExpertBank::create(pool, experts, options.seed));
  Bench bench(pool, bank, *backend, options.repeats, cancel);
  if (options.decode) LS_TRY_VOID(decode_rows(bench, bank.size(), report));
  if (options.prefill) LS_TRY_VOID(prefill_rows(bench, bank, dram, peak.gflops, report));
  report.rows.push_back(
      {"largest error against fp32, of the output", bench.worst() * 1e3, "thousandths", 0});
  report.rows.push_back(
      {"bank", static_cast<double>(bank.size() * ExpertBank::kExpertBytes) / 1e9, "GB", 0});
  return report;
}

}  // namespace longshore::bench
