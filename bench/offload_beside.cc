#include "bench/offload_beside.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"

namespace longshore::bench {
namespace {

constexpr int64_t kContext = 512;  // of those who decode, when the first prompt comes
constexpr int64_t kAlone = 24;     // steps before it that count
constexpr int kPrompts = 3;        // of which the first does not count

double quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

class Beside {
 public:
  Beside(session::LoadedModel& loaded, const BesideOptions& options, const CancelToken& cancel)
      : loaded_(loaded), options_(options), cancel_(cancel), random_(options.seed) {}

  Result<void> run(Report& report) {
    LS_TRY_VOID(make_engine());
    LS_TRY_VOID(begin_decoding());
    for (int i = 0; i < kPrompts; ++i) LS_TRY_VOID(read_prompt(/*counts=*/i > 0));
    write(report);
    return {};
  }

 private:
  Result<void> make_engine() {
    const int64_t context = std::max(2 * options_.chunk, 4 * kContext);
    LS_TRY(engine_,
           engine::Engine::create(*loaded_.model, loaded_.layout, *loaded_.pool,
                                  {.context_length = context,
                                   .max_running = options_.sequences + 1,
                                   .prefill_budget = options_.chunk,
                                   .pages = (options_.sequences + 1) * engine::pages_for(context),
                                   .prefix_cache = false,
                                   .beside_share = options_.share}));
    return loaded_.model->capture_steps(engine_->caches(), loaded_.options.graphs);
  }

  std::vector<int32_t> ids(int64_t count) {
    std::vector<int32_t> made;
    const auto vocab = static_cast<uint64_t>(loaded_.checkpoint->config().vocab_size);
    for (int64_t i = 0; i < count; ++i) made.push_back(static_cast<int32_t>(random_() % vocab));
    return made;
  }

  Result<void> submit(int64_t prompt, int64_t tokens, engine::Listener listener) {
    engine::GenerationRequest request;
    request.prompt = ids(prompt);
    request.sampling.temperature = 0;
    request.ignore_stop_ids = true;
    request.max_tokens = tokens;
    LS_TRY_VOID(engine_->submit(std::move(request), std::move(listener)));
    return {};
  }

  Result<void> step() {
    if (cancel_.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    engine_->step();
    if (engine_->counters().fault) return tl::unexpected<Error>(*engine_->counters().fault);
    return {};
  }

  Result<void> begin_decoding() {
    for (int64_t i = 0; i < options_.sequences; ++i) {
      engine::Listener listener;
      listener.on_token = [this, last = Stopwatch()](const engine::Sampled&) mutable {
        gaps_.push_back(last.lap());
        return true;
      };
      LS_TRY_VOID(submit(kContext, -1, std::move(listener)));
    }
    while (!engine_->decoding_only()) LS_TRY_VOID(step());
    if (options_.sequences > 0) {
      for (int64_t i = 0; i < 2 * kAlone; ++i) {
        if (i == kAlone) gaps_.clear();
        LS_TRY_VOID(step());
      }
    }
    alone_ = gaps_;
    return {};
  }

  Result<void> read_prompt(bool counts) {
    const auto& counters = loaded_.model->experts().counters();
    bool there = false;
    engine::Listener listener;
    listener.on_token = [&there](const engine::Sampled&) { return !(there = true); };
    LS_TRY_VOID(submit(options_.chunk, 1, std::move(listener)));
    gaps_.clear();
    const offload::ExpertCounters before = counters;
    const offload::BesideCounters steps = loaded_.model->experts().device()->beside();
    const Stopwatch watch;
    while (!there) LS_TRY_VOID(step());
    if (!counts) return {};
    seconds_.push_back(watch.seconds());
    pass_ = pass_ + (counters - before);
    rates_.push_back(static_cast<double>((counters - before).wire_bytes) / seconds_.back());
    add_steps(steps);
    tokens_ += static_cast<int64_t>(gaps_.size());
    beside_.insert(beside_.end(), gaps_.begin(), gaps_.end());
    return {};
  }

  // Those since `before`.
  void add_steps(const offload::BesideCounters& before) {
    const offload::BesideCounters& now = loaded_.model->experts().device()->beside();
    steps_.steps += now.steps - before.steps;
    steps_.seconds += now.seconds - before.seconds;
    steps_.wire_bytes += now.wire_bytes - before.wire_bytes;
    steps_.used = steps_.used + (now.used - before.used);
  }

  void write(Report& report) const {
    const std::string name = fmt::format("{}prompt of {} beside {} decoding{}", options_.before,
                                         options_.chunk, options_.sequences,
                                         options_.share < 0           ? ", mixed"
                                         : std::isinf(options_.share) ? ", a step in every pause"
                                                                      : "");
    const double seconds = quantile(seconds_, 0.5);
    const auto row = [&](const char* what, double value, const char* unit, double bound = 0) {
      report.rows.push_back({name + what, value, unit, bound});
    };
    row(": wire", quantile(rates_, 0.5) / 1e9, "GB/s", options_.wire_alone / 1e9);
    row("", static_cast<double>(options_.chunk) / seconds, "tokens/s");
    row(": wire idle", pass_.wire_idle_seconds / (kPrompts - 1) * 1e3, "ms of a pass");
    const double layers = static_cast<double>(loaded_.model->experts().experts().layers());
    row(": waiting for a layer's routes",
        (pass_ - steps_.used).handshake_seconds / (kPrompts - 1) / layers * 1e3, "ms");
    if (options_.sequences == 0) return;
    write_steps(report, name);
    row(": tokens of each meanwhile",
        static_cast<double>(tokens_) / static_cast<double>(options_.sequences) / (kPrompts - 1),
        "tokens");
    row(": between tokens, half below", quantile(beside_, 0.5) * 1e3, "ms");
    row(": between tokens, 99 % below", quantile(beside_, 0.99) * 1e3, "ms");
    row(": without the prompt, half below", quantile(alone_, 0.5) * 1e3, "ms");
  }

  // What a step beside the pass did, and the wire meanwhile.
  void write_steps(Report& report, const std::string& name) const {
    if (steps_.steps == 0) return;
    const auto row = [&](const char* what, double value, const char* unit, double bound = 0) {
      report.rows.push_back({name + ": step beside: " + what, value, unit, bound});
    };
    const auto each = [&](double seconds) {
      return seconds / static_cast<double>(steps_.steps) * 1e3;
    };
    const offload::ExpertCounters& used = steps_.used;
    row("of a pass", static_cast<double>(steps_.steps) / (kPrompts - 1), "steps");
    row("takes", each(steps_.seconds), "ms");
    row("CPU computing", each(used.cpu_seconds), "ms");
    row("waiting for its routes", each(used.handshake_seconds), "ms");
    row("launch, head, logits",
        each(steps_.seconds - used.cpu_seconds - used.handshake_seconds - used.policy_seconds),
        "ms");
    if (used.cpu_seconds > 0)
      row("CPU experts", static_cast<double>(used.cpu_bytes) / used.cpu_seconds / 1e9, "GB/s");
    row("wire meanwhile", static_cast<double>(steps_.wire_bytes) / steps_.seconds / 1e9, "GB/s",
        options_.wire_alone / 1e9);
  }

  session::LoadedModel& loaded_;
  const BesideOptions& options_;
  const CancelToken& cancel_;
  std::mt19937_64 random_;
  std::unique_ptr<engine::Engine> engine_;
  std::vector<double> gaps_;    // seconds between tokens, of all who decode
  std::vector<double> alone_;   // before a prompt comes
  std::vector<double> beside_;  // while one is read
  std::vector<double> seconds_, rates_;
  offload::ExpertCounters pass_;   // of the prompts that count
  offload::BesideCounters steps_;  // of steps beside them
  int64_t tokens_ = 0;
};

}  // namespace

Result<void> beside_prompts(session::LoadedModel& loaded, const BesideOptions& options,
                            const CancelToken& cancel, Report& report) {
  return Beside(loaded, options, cancel).run(report);
}

}  // namespace longshore::bench
