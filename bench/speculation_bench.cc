#include "bench/speculation_bench.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "base/clock.h"
#include "offload/routing.h"

namespace longshore::bench {
namespace {

struct Case {
  std::string name;
  float temperature = 0;
  bool wrong = false;
};

struct Measured {
  int64_t tokens = 0;
  double seconds = 0;
  std::vector<int64_t> depths;  // [depth] steps that went so deep
  [[nodiscard]] double rate() const { return static_cast<double>(tokens) / seconds; }
};

// Groups of prompts, each decoded to its end.
class Decoder {
 public:
  Decoder(session::LoadedModel& loaded, const SpeculationBenchOptions& options,
          const CancelToken& cancel)
      : loaded_(loaded), engine_(*loaded.engine), options_(options), cancel_(cancel) {}

  // turn: which prompts and seeds.
  Result<Measured> run(const PromptSet& set, float temperature, int64_t batch, uint64_t turn) {
    Measured measured;
    const int64_t groups =
        std::max<int64_t>(std::min<int64_t>(4, options_.requests), options_.requests / batch);
    for (int64_t group = 0; group < groups; ++group) {
      const uint64_t first = (turn * static_cast<uint64_t>(groups) + static_cast<uint64_t>(group)) *
                             static_cast<uint64_t>(batch);
      for (int64_t b = 0; b < batch; ++b)
        LS_TRY_VOID(submit(set, temperature, first + static_cast<uint64_t>(b)));
      LS_TRY_VOID(decode(measured));
      engine_.clear_prefix_cache();
    }
    return measured;
  }

 private:
  Result<void> submit(const PromptSet& set, float temperature, uint64_t number) {
    engine::GenerationRequest request;
    request.prompt = set.prompts[number % set.prompts.size()];
    request.sampling.temperature = temperature;
    request.sampling.seed = options_.seed * 1000003 + number;
    request.max_tokens = options_.tokens;
    request.stop_ids = loaded_.defaults.eos_ids;
    request.ignore_stop_ids = !set.stops;
    return engine_.submit(std::move(request), {}, engine::QueueLimit::kIgnored)
        .map([](engine::RequestId) {});
  }

  // Counts from the step in which every sequence decodes; until then nothing is guessed, but for
  // what reading a prompt for the draft brings, whose seconds count.
  Result<void> decode(Measured& measured) {
    bool all_decode = false;
    engine_.pause_speculation(true);
    while (!engine_.idle()) {
      if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
      const Stopwatch watch;
      engine_.step();
      const engine::StepReport& report = engine_.last_step();
      if (all_decode) {
        measured.seconds += watch.seconds();
        measured.tokens += report.tokens;
        const auto depth = static_cast<size_t>(report.draft_steps);
        measured.depths.resize(std::max(measured.depths.size(), depth + 1));
        ++measured.depths[depth];
        continue;
      }
      measured.seconds += report.draft_seconds;
      if (engine_.decoding_only()) {
        all_decode = true;
        engine_.pause_speculation(false);
      }
    }
    engine_.pause_speculation(false);
    if (engine_.counters().fault) return tl::unexpected<Error>(*engine_.counters().fault);
    return {};
  }

  session::LoadedModel& loaded_;
  engine::Engine& engine_;
  const SpeculationBenchOptions& options_;
  const CancelToken& cancel_;
};

// Of log ratios: mean and half of the 95 % interval.
struct Interval {
  double mean = 0;
  double half = 0;
};

Interval interval_of(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (const double value : values) mean += value / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  // Student's 0.975 quantile (Cornish-Fisher's expansion, within 1 % from four degrees on).
  const double f = n - 1;
  const double t = 1.96 + 2.372 / f + 2.823 / (f * f) + 2.556 / (f * f * f);
  return {mean, t * std::sqrt(squares / (n - 1) / n)};
}

class Pairs {
 public:
  Pairs(session::LoadedModel& loaded, const SpeculationBenchOptions& options,
        const CancelToken& cancel)
      : engine_(*loaded.engine), options_(options), decoder_(loaded, options, cancel) {}

  Result<void> run(const PromptSet& set, const Case& which, int64_t batch, Report& report) {
    engine::Speculation on = engine_.options().speculation;
    on.wrong_drafts = which.wrong;
    engine::Speculation always = on;
    always.always = true;
    // What drafting loads and the cost model learns at first is no part of the measurement.
    engine_.set_speculation(always);
    LS_TRY([[maybe_unused]] const Measured loads, decoder_.run(set, which.temperature, batch, 0));
    engine_.set_speculation(on);
    for (int i = 0; i < 2; ++i) {
      LS_TRY([[maybe_unused]] const Measured first, decoder_.run(set, which.temperature, batch, 0));
    }
    engine::SpeculationPolicy policy = engine_.policy();
    std::vector<double> ratios;
    std::vector<double> always_ratios;
    engine::EngineCounters guessed;  // of the always drafted runs
    int64_t drafted_steps = 0;
    int64_t steps = 0;
    for (int i = 0; i < options_.repeats; ++i) {
      double rates[3] = {};  // plain, the cost model, always
      for (int turn = 0; turn < 3; ++turn) {
        const int way = (i + turn) % 3;
        engine_.set_speculation(way == 2 ? always : on);
        if (way == 1) engine_.set_policy(policy);
        engine_.leave_speculation(way == 0);
        const engine::EngineCounters before = engine_.counters();
        LS_TRY(const Measured measured,
               decoder_.run(set, which.temperature, batch, 1 + static_cast<uint64_t>(i)));
        engine_.leave_speculation(false);
        rates[way] = measured.rate();
        if (way == 2) add_guesses(before, guessed);
        if (way != 1) continue;
        policy = engine_.policy();
        for (size_t depth = 0; depth < measured.depths.size(); ++depth) {
          steps += measured.depths[depth];
          drafted_steps += depth > 0 ? measured.depths[depth] : 0;
        }
      }
      ratios.push_back(std::log(rates[1] / rates[0]));
      always_ratios.push_back(std::log(rates[2] / rates[0]));
    }
    const std::string name = fmt::format("{}, {}, batch {}", set.name, which.name, batch);
    add_speed_up(name, "", interval_of(ratios), report);
    report.rows.push_back(
        {name + ": steps with drafts",
         static_cast<double>(drafted_steps) / static_cast<double>(std::max<int64_t>(steps, 1)),
         "of all", 0});
    add_speed_up(name, fmt::format("always {}, ", on.max_steps), interval_of(always_ratios),
                 report);
    add_guess_rows(name, guessed, report);
    fmt::print(stderr, "{}: measured\n", name);
    return {};
  }

 private:
  void add_guesses(const engine::EngineCounters& before, engine::EngineCounters& sum) const {
    const engine::EngineCounters& now = engine_.counters();
    sum.drafted.resize(now.drafted.size());
    sum.accepted.resize(now.drafted.size());
    for (size_t d = 0; d < now.drafted.size(); ++d) {
      sum.drafted[d] += now.drafted[d] - (d < before.drafted.size() ? before.drafted[d] : 0);
      sum.accepted[d] += now.accepted[d] - (d < before.accepted.size() ? before.accepted[d] : 0);
    }
    sum.speculated += now.speculated - before.speculated;
  }

  static void add_speed_up(const std::string& name, const std::string& way,
                           const Interval& speed_up, Report& report) {
    const auto row = [&](const char* what, double log_ratio) {
      report.rows.push_back(
          {fmt::format("{}: {}{}", name, way, what), std::exp(log_ratio), "x", 0});
    };
    row("speed-up", speed_up.mean);
    row("95 % from", speed_up.mean - speed_up.half);
    row("95 % to", speed_up.mean + speed_up.half);
  }

  static void add_guess_rows(const std::string& name, const engine::EngineCounters& guessed,
                             Report& report) {
    int64_t right = 0;
    for (size_t d = 0; d < guessed.drafted.size(); ++d) {
      right += guessed.accepted[d];
      if (guessed.drafted[d] == 0) continue;
      report.rows.push_back(
          {fmt::format("{}: right at depth {}", name, d + 1),
           static_cast<double>(guessed.accepted[d]) / static_cast<double>(guessed.drafted[d]), "",
           0});
    }
    const auto steps = static_cast<double>(std::max<int64_t>(guessed.speculated, 1));
    report.rows.push_back(
        {name + ": tokens of a step", 1 + static_cast<double>(right) / steps, "tokens", 0});
  }

  engine::Engine& engine_;
  const SpeculationBenchOptions& options_;
  Decoder decoder_;
};

class Curve {
 public:
  Curve(session::LoadedModel& loaded, const SpeculationBenchOptions& options,
        const CancelToken& cancel)
      : engine_(*loaded.engine), options_(options), decoder_(loaded, options, cancel) {}

  Result<void> run(const PromptSet& set, double accept, const std::string& name, int64_t batch,
                   Report& report) {
    engine::Speculation speculation = engine_.options().speculation;
    speculation.forced_acceptance = accept;
    const int64_t deepest = speculation.max_steps;
    const auto ways = static_cast<size_t>(deepest + 2);  // fixed depths, then the cost model
    engine_.set_speculation(speculation);
    for (int i = 0; i < 2; ++i) {
      LS_TRY([[maybe_unused]] const Measured learnt, decoder_.run(set, 0, batch, 0));
    }
    engine::SpeculationPolicy policy = engine_.policy();
    std::vector<Measured> sums(ways);
    for (int i = 0; i < options_.repeats; ++i) {
      for (size_t way = 0; way < ways; ++way) {
        const auto depth = static_cast<int64_t>((way + static_cast<size_t>(i)) % ways);
        engine::Speculation fixed = speculation;
        fixed.always = depth <= deepest;
        if (fixed.always) fixed.max_steps = depth;
        engine_.set_speculation(fixed);
        if (!fixed.always) engine_.set_policy(policy);
        engine_.leave_speculation(depth == 0);
        LS_TRY(const Measured measured, decoder_.run(set, 0, batch, 1 + static_cast<uint64_t>(i)));
        engine_.leave_speculation(false);
        if (!fixed.always) policy = engine_.policy();
        add(measured, sums[static_cast<size_t>(depth)]);
      }
    }
    add_rows(fmt::format("{}, batch {}", name, batch), sums, report);
    fmt::print(stderr, "{}, batch {}: measured\n", name, batch);
    return {};
  }

 private:
  static void add(const Measured& measured, Measured& sum) {
    sum.tokens += measured.tokens;
    sum.seconds += measured.seconds;
    sum.depths.resize(std::max(sum.depths.size(), measured.depths.size()));
    for (size_t d = 0; d < measured.depths.size(); ++d) sum.depths[d] += measured.depths[d];
  }

  static void add_rows(const std::string& name, const std::vector<Measured>& sums, Report& report) {
    double best = 0;
    for (size_t depth = 0; depth + 1 < sums.size(); ++depth) {
      best = std::max(best, sums[depth].rate());
      report.rows.push_back(
          {fmt::format("{}: {} drafts", name, depth), sums[depth].rate(), "tokens/s", 0});
    }
    const Measured& chosen = sums.back();
    const auto most = std::max_element(chosen.depths.begin(), chosen.depths.end());
    report.rows.push_back({name + ": cost model", chosen.rate(), "tokens/s", best});
    report.rows.push_back({name + ": it mostly drafts",
                           static_cast<double>(most - chosen.depths.begin()), "tokens", 0});
    // What the depth that it settled on is worth where it is fixed: looks at others left out.
    const auto depth = static_cast<size_t>(most - chosen.depths.begin());
    report.rows.push_back(
        {name + ": that depth, fixed, of the best", sums[depth].rate() / best, "", 0});
  }

  engine::Engine& engine_;
  const SpeculationBenchOptions& options_;
  Decoder decoder_;
};

Report empty_report(const session::LoadedModel& loaded) {
  return {.bench = "speculation",
          .machine = machine_name(loaded.pool->size()),
          .ceilings = {},
          .rows = {}};
}

}  // namespace

Result<Report> speculation_bench(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                                 const SpeculationBenchOptions& options,
                                 const CancelToken& cancel) {
  Report report = empty_report(loaded);
  Pairs pairs(loaded, options, cancel);
  for (const PromptSet& set : sets) {
    for (const Case& which :
         {Case{"greedy"}, Case{"temperature 1", 1}, Case{"wrong drafts", 0, true}}) {
      for (const int64_t batch : options.batches) LS_TRY_VOID(pairs.run(set, which, batch, report));
    }
  }
  return report;
}

Result<Report> speculation_curve(session::LoadedModel& loaded, const PromptSet& set,
                                 const SpeculationBenchOptions& options,
                                 const CancelToken& cancel) {
  Report report = empty_report(loaded);
  Curve curve(loaded, options, cancel);
  offload::ExpertStore& store = loaded.model->experts();
  const offload::HostExperts& experts = store.experts();
  std::vector<double> overlaps = options.overlaps;
  if (overlaps.empty()) overlaps.push_back(-1);  // the model's own routing
  for (const double overlap : overlaps) {
    std::string routing_name = "own routing";
    std::optional<offload::Routing> routing;
    if (overlap >= 0) {
      if (experts.size() == 0) return fail(ErrorKind::kUsage, "--overlaps: there are no experts");
      LS_TRY(routing,
             offload::Routing::parse(fmt::format("overlap:{}", overlap),
                                     static_cast<int32_t>(experts.layers()),
                                     static_cast<int32_t>(experts.per_layer()), options.seed));
      routing_name = fmt::format("overlap {}", overlap);
    }
    for (const double accept : options.accept_rates) {
      for (const int64_t batch : options.batches) {
        store.force(routing ? &*routing : nullptr);
        const auto done = curve.run(
            set, accept, fmt::format("acceptance {}, {}", accept, routing_name), batch, report);
        store.force(nullptr);
        LS_TRY_VOID(done);
      }
    }
  }
  return report;
}

}  // namespace longshore::bench
