#include "bench/serving_bench.h"

#include <algorithm>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"

namespace longshore::bench {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Driver {
 public:
  Driver(session::LoadedModel& loaded, const ServingBenchOptions& options,
         const CancelToken& cancel)
      : engine_(*loaded.engine),
        options_(options),
        cancel_(cancel),
        vocab_(loaded.checkpoint->config().vocab_size),
        random_(options.seed) {}

  std::vector<int32_t> ids(int64_t count) {
    std::vector<int32_t> made(static_cast<size_t>(count));
    for (int32_t& id : made) id = static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_));
    return made;
  }

  Result<void> submit(std::vector<int32_t> prompt, int64_t tokens) {
    engine::GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_tokens = tokens;
    request.ignore_stop_ids = true;
    LS_TRY_VOID(engine_.submit(std::move(request), {}, engine::QueueLimit::kIgnored));
    return {};
  }

  Result<void> step() {
    if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    engine_.step();
    return {};
  }

  struct Decoding {
    double tokens_per_second = 0;
    double overhead = 0;  // the engine's share of the steps' time
  };

  // Steps in which exactly `batch` sequences decode and nothing else happens.
  Result<Decoding> decode(int64_t batch) {
    for (int64_t i = 0; i < batch; ++i) LS_TRY_VOID(submit(ids(options_.context), options_.tokens));
    double own = 0;
    double all = 0;
    int64_t tokens = 0;
    while (!engine_.idle()) {
      LS_TRY_VOID(step());
      const engine::StepReport& report = engine_.last_step();
      if (report.prefill_tokens > 0 || report.decode_tokens != batch) continue;
      const double engine_seconds =
          report.plan_seconds + report.sample_seconds + report.deliver_seconds;
      own += engine_seconds;
      all += engine_seconds + report.forward_seconds;
      tokens += report.decode_tokens;
    }
    if (tokens == 0) {
      return fail(
          ErrorKind::kUsage,
          "no step decoded {} sequences: raise --tokens or lower --context so that all of them run",
          batch);
    }
    return Decoding{static_cast<double>(tokens) / all, own / all};
  }

  struct Gaps {
    std::vector<double> alone;   // seconds of the steps in which `batch` sequences decode
    std::vector<double> beside;  // and in which a prompt is read as well
  };

  // What `batch` decoding sequences wait for their tokens before and while a prompt is read.
  Result<Gaps> beside_prompt(int64_t batch, int64_t prompt) {
    const int64_t chunks = prompt / engine_.options().prefill_budget + 1;
    for (int64_t i = 0; i < batch; ++i) LS_TRY_VOID(submit(ids(32), 2 * chunks + options_.tokens));
    Gaps gaps;
    bool submitted = false;
    while (!engine_.idle()) {
      if (static_cast<int64_t>(gaps.alone.size()) == options_.tokens / 2 && !submitted) {
        LS_TRY_VOID(submit(ids(prompt), 1));
        submitted = true;
      }
      const Stopwatch watch;
      LS_TRY_VOID(step());
      const engine::StepReport& report = engine_.last_step();
      if (report.decode_tokens != batch) continue;
      (report.prefill_tokens > 0 ? gaps.beside : gaps.alone).push_back(watch.seconds());
    }
    return gaps;
  }

  Result<double> first_token(std::vector<int32_t> prompt) {
    const Stopwatch watch;
    LS_TRY_VOID(submit(std::move(prompt), 1));
    while (!engine_.idle()) LS_TRY_VOID(step());
    return watch.seconds();
  }

  // Time to first token of `shared` + own tokens, {shared part unknown, shared part cached}.
  Result<std::pair<double, double>> prefix(int64_t shared, int64_t own) {
    std::vector<double> cold;
    std::vector<double> warm;
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      const std::vector<int32_t> beginning = ids(shared);
      for (std::vector<double>* times : {&cold, &warm}) {
        std::vector<int32_t> prompt = beginning;
        const std::vector<int32_t> end = ids(own);
        prompt.insert(prompt.end(), end.begin(), end.end());
        LS_TRY(const double seconds, first_token(std::move(prompt)));
        times->push_back(seconds);
      }
    }
    return std::pair{median(cold), median(warm)};
  }

 private:
  engine::Engine& engine_;
  const ServingBenchOptions& options_;
  const CancelToken& cancel_;
  int64_t vocab_;
  std::mt19937_64 random_;
};

Result<void> add_batches(Driver& driver, const ServingBenchOptions& options, int64_t most,
                         Report& report) {
  double single = 0;
  for (int64_t batch = 1; batch <= most; batch *= 2) {
    std::vector<double> speed;
    std::vector<double> overhead;
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      LS_TRY(const Driver::Decoding measured, driver.decode(batch));
      speed.push_back(measured.tokens_per_second);
      overhead.push_back(measured.overhead);
    }
    if (batch == 1) single = median(speed);
    const std::string name = fmt::format("decode, batch {}", batch);
    report.rows.push_back({name, median(speed), "tokens/s", single * static_cast<double>(batch)});
    report.rows.push_back({name + ": times batch 1", median(speed) / single, "x", 0});
    report.rows.push_back({name + ": engine's share of a step", median(overhead) * 100, "%", 0});
  }
  return {};
}

Result<void> add_prefixes(Driver& driver, int64_t context_length, Report& report) {
  constexpr int64_t kOwn = 64;
  for (int64_t shared = 0; shared + kOwn < context_length && shared <= 8192;
       shared = shared == 0 ? 512 : shared * 2) {
    LS_TRY(const auto times, driver.prefix(shared, kOwn));
    const std::string name = fmt::format("first token, {} shared + {} own", shared, kOwn);
    report.rows.push_back({name + ", unknown", times.first * 1e3, "ms", 0});
    report.rows.push_back({name + ", cached", times.second * 1e3, "ms", 0});
  }
  return {};
}

// The latency that a prompt's chunks add to streams that are being answered.
Result<void> add_gaps(Driver& driver, const engine::EngineOptions& engine, Report& report) {
  const int64_t batch = std::min<int64_t>(8, engine.max_running - 1);
  const int64_t prompt = engine.context_length * 3 / 4;
  if (batch < 1 || prompt <= engine.prefill_budget) return {};
  LS_TRY(const Driver::Gaps gaps, driver.beside_prompt(batch, prompt));
  if (gaps.alone.empty() || gaps.beside.empty()) return {};
  const std::string streams = fmt::format("gap of {} streams", batch);
  const std::string chunks = fmt::format("{} beside {} prompt tokens in chunks of {}", streams,
                                         prompt, engine.prefill_budget);
  report.rows.push_back({streams + " alone, median", median(gaps.alone) * 1e3, "ms", 0});
  report.rows.push_back({chunks + ", median", median(gaps.beside) * 1e3, "ms", 0});
  report.rows.push_back({chunks + ", worst",
                         *std::max_element(gaps.beside.begin(), gaps.beside.end()) * 1e3, "ms", 0});
  return {};
}

}  // namespace

Result<Report> serving_bench(session::LoadedModel& loaded, const ServingBenchOptions& options,
                             const CancelToken& cancel) {
  const engine::EngineOptions& engine = loaded.engine->options();
  if (options.context + options.tokens > engine.context_length) {
    return fail(ErrorKind::kUsage, "--context {} and --tokens {}: the context holds {}",
                options.context, options.tokens, engine.context_length);
  }
  Report report;
  report.bench = fmt::format("serving {}", loaded.checkpoint->where());
  report.machine = fmt::format("{}, {}", machine_name(loaded.pool->size()), loaded.backend->name());
  Driver driver(loaded, options, cancel);
  LS_TRY_VOID(driver.decode(1));  // warms up
  LS_TRY_VOID(add_batches(driver, options, engine.max_running, report));
  loaded.engine->clear_prefix_cache();
  LS_TRY_VOID(add_prefixes(driver, engine.context_length, report));
  loaded.engine->clear_prefix_cache();
  LS_TRY_VOID(add_gaps(driver, engine, report));
  return report;
}

}  // namespace longshore::bench
