#include "bench/speculation_bench.h"

#include <cmath>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"

namespace longshore::bench {
namespace {

struct Case {
  const char* name;
  float temperature;
  bool wrong;
  double forced;
};

class Pairs {
 public:
  Pairs(session::LoadedModel& loaded, const SpeculationBenchOptions& options,
        const CancelToken& cancel)
      : loaded_(loaded), engine_(*loaded.engine), options_(options), cancel_(cancel) {}

  Result<void> run(const Case& which, int64_t batch, Report& report) {
    engine::Speculation on = engine_.options().speculation;
    on.wrong_drafts = which.wrong;
    on.forced_acceptance = which.forced;
    engine_.set_speculation(on);
    // Both ways once: what the cost model learns first is no part of the measurement.
    LS_TRY([[maybe_unused]] const double first, decode(which, batch, 0));
    const engine::EngineCounters before = engine_.counters();
    double sum = 0;
    double squares = 0;
    for (int i = 0; i < options_.repeats; ++i) {
      double seconds[2] = {1, 1};
      for (int turn = 0; turn < 2; ++turn) {
        const bool plain = (i + turn) % 2 == 0;
        engine_.pause_speculation(plain);
        LS_TRY(seconds[plain ? 0 : 1], decode(which, batch, 1 + static_cast<uint64_t>(i)));
      }
      engine_.pause_speculation(false);
      const double ratio = std::log(seconds[0] / seconds[1]);
      sum += ratio;
      squares += ratio * ratio;
    }
    add_rows(which, batch, sum, squares, before, report);
    return {};
  }

 private:
  // Seconds of the steps in which all of the batch decode.
  Result<double> decode(const Case& which, int64_t batch, uint64_t seed) {
    std::mt19937_64 random(options_.seed * 1000 + seed);
    const auto vocab = static_cast<uint64_t>(loaded_.checkpoint->config().vocab_size);
    for (int64_t b = 0; b < batch; ++b) {
      engine::GenerationRequest request;
      for (int i = 0; i < 32; ++i) request.prompt.push_back(static_cast<int32_t>(random() % vocab));
      request.sampling.temperature = which.temperature;
      request.sampling.seed = random();
      request.max_tokens = options_.tokens;
      request.ignore_stop_ids = true;
      LS_TRY_VOID(engine_.submit(std::move(request), {}, engine::QueueLimit::kIgnored));
    }
    double seconds = 0;
    while (!engine_.idle()) {
      if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
      const Stopwatch watch;
      engine_.step();
      if (engine_.last_step().prefill_tokens == 0) seconds += watch.seconds();
    }
    engine_.clear_prefix_cache();
    if (engine_.counters().fault) return tl::unexpected<Error>(*engine_.counters().fault);
    return seconds;
  }

  void add_rows(const Case& which, int64_t batch, double sum, double squares,
                const engine::EngineCounters& before, Report& report) {
    const double n = options_.repeats;
    const double mean = sum / n;
    const double spread = std::sqrt(std::max(0.0, squares / n - mean * mean) / (n - 1));
    const double t = 2.0 + 2.4 / (n - 1) + 5.0 / ((n - 1) * (n - 1));  // of Student's, 0.975
    const std::string name = fmt::format("{}, batch {}", which.name, batch);
    report.rows.push_back({name + ", speed-up", std::exp(mean), "x", 0});
    report.rows.push_back({name + ", 95 % from", std::exp(mean - t * spread), "x", 0});
    report.rows.push_back({name + ", 95 % to", std::exp(mean + t * spread), "x", 0});
    const engine::EngineCounters& now = engine_.counters();
    const auto per = [](int64_t a, int64_t b) {
      return b > 0 ? static_cast<double>(a) / static_cast<double>(b) : 0;
    };
    int64_t right = 0;
    for (size_t d = 0; d < now.drafted.size(); ++d) {
      const int64_t drafted = now.drafted[d] - (d < before.drafted.size() ? before.drafted[d] : 0);
      const int64_t accepted =
          now.accepted[d] - (d < before.accepted.size() ? before.accepted[d] : 0);
      right += accepted;
      report.rows.push_back(
          {fmt::format("{}, right at depth {}", name, d + 1), per(accepted, drafted), "", 0});
    }
    const int64_t speculated = now.speculated - before.speculated;
    report.rows.push_back(
        {name + ", tokens of a drafted step", 1 + per(right, speculated), "tokens", 0});
    report.rows.push_back({name + ", steps with drafts, of all",
                           per(speculated, now.decode_steps - before.decode_steps), "", 0});
  }

  session::LoadedModel& loaded_;
  engine::Engine& engine_;
  const SpeculationBenchOptions& options_;
  const CancelToken& cancel_;
};

}  // namespace

Result<Report> speculation_bench(session::LoadedModel& loaded,
                                 const SpeculationBenchOptions& options,
                                 const CancelToken& cancel) {
  Report report{.bench = "speculation",
                .machine = machine_name(loaded.pool->size()),
                .ceilings = {},
                .rows = {}};
  std::vector<Case> cases;
  if (options.accept_rate >= 0) {
    cases.push_back({"forced acceptance", 0, false, options.accept_rate});
  } else {
    cases = {
        {"greedy", 0, false, -1}, {"temperature 1", 1, false, -1}, {"wrong drafts", 0, true, -1}};
  }
  Pairs pairs(loaded, options, cancel);
  for (const Case& which : cases) {
    for (const int64_t batch : {1, 4, 16}) LS_TRY_VOID(pairs.run(which, batch, report));
  }
  return report;
}

}  // namespace longshore::bench
