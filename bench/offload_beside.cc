#include "bench/offload_beside.h"

#include <algorithm>
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
    const Stopwatch watch;
    while (!there) LS_TRY_VOID(step());
    if (!counts) return {};
    seconds_.push_back(watch.seconds());
    const auto bytes = static_cast<double>((counters - before).wire_bytes);
    rates_.push_back(bytes / seconds_.back());
    tokens_ += static_cast<int64_t>(gaps_.size());
    beside_.insert(beside_.end(), gaps_.begin(), gaps_.end());
    return {};
  }

  void write(Report& report) const {
    const std::string name =
        fmt::format("{}prompt of {} beside {} decoding{}", options_.before, options_.chunk,
                    options_.sequences, options_.share < 0 ? ", mixed" : "");
    const double seconds = quantile(seconds_, 0.5);
    const auto row = [&](const char* what, double value, const char* unit, double bound = 0) {
      report.rows.push_back({name + what, value, unit, bound});
    };
    row(": wire", quantile(rates_, 0.5) / 1e9, "GB/s", options_.wire_alone / 1e9);
    row("", static_cast<double>(options_.chunk) / seconds, "tokens/s");
    if (options_.sequences == 0) return;
    row(": tokens of each meanwhile",
        static_cast<double>(tokens_) / static_cast<double>(options_.sequences) / (kPrompts - 1),
        "tokens");
    row(": between tokens, half below", quantile(beside_, 0.5) * 1e3, "ms");
    row(": between tokens, 99 % below", quantile(beside_, 0.99) * 1e3, "ms");
    row(": without the prompt, half below", quantile(alone_, 0.5) * 1e3, "ms");
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
  int64_t tokens_ = 0;
};

}  // namespace

Result<void> beside_prompts(session::LoadedModel& loaded, const BesideOptions& options,
                            const CancelToken& cancel, Report& report) {
  return Beside(loaded, options, cancel).run(report);
}

}  // namespace longshore::bench
