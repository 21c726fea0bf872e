#include "bench/model_bench.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "base/clock.h"
#include "bench/ceilings.h"
#include "bench/marked_backend.h"
#include "bench/sequence.h"
#include "bench/step_breakdown.h"
#include "model/cost.h"

namespace longshore::bench {
namespace {

Report new_report(const char* name, const session::LoadedModel& loaded, const Ceilings& ceilings) {
  Report report;
  report.bench = fmt::format("{} {}", name, loaded.checkpoint->where());
  report.machine = fmt::format("{}, {}", machine_name(loaded.pool->size()), loaded.backend->name());
  if (loaded.backend->memory().host()) {
    report.ceilings = {
        {fmt::format("DRAM read GB/s, {}-bit loads", load_bits()), ceilings.dram_gbs},
        {"fp32 FMA GFLOP/s", ceilings.fma_gflops}};
  }
  return report;
}

void add_memory(Report& report, const session::LoadedModel& loaded) {
  report.rows.push_back({"weights in the checkpoint",
                         static_cast<double>(loaded.checkpoint->total_bytes()) / 1e9, "GB", 0});
  report.rows.push_back({"peak memory of the process", peak_memory_bytes() / 1e9, "GB", 0});
}

// Weight bytes of a token of all 78 layers, from a slice with at least one layer of each kind; 0
// where the model is no slice of GLM-5.1.
double full_token_bytes(const session::LoadedModel& loaded) {
  constexpr int kDenseLayers = 3;
  constexpr int kMoeLayers = 75;
  if (!loaded.checkpoint->where().starts_with("glm-5.1:")) return 0;
  int64_t dense = 0;
  int64_t moe = 0;
  int64_t rest = model::step_bytes(loaded.model->weights());
  for (const model::LayerWeights& layer : loaded.model->weights().layers) {
    const int64_t bytes = model::layer_bytes(layer);
    (layer.moe ? moe : dense) = bytes;
    rest -= bytes;
  }
  if (dense == 0 || moe == 0 || loaded.options.offload_meta) return 0;
  moe += loaded.checkpoint->config().experts_per_token * loaded.model->experts().expert_bytes();
  return static_cast<double>(rest + kDenseLayers * dense + kMoeLayers * moe);
}

// The host's ceilings bound the host alone.
Ceilings bounds(const session::LoadedModel& loaded, const Ceilings& measured) {
  return loaded.backend->memory().host() ? measured : Ceilings{};
}

// Weight bytes of one token's routed experts: they are distinct.
int64_t expert_bytes_of_token(const session::LoadedModel& loaded) {
  if (loaded.options.offload_meta) return 0;
  const GlmConfig& config = loaded.checkpoint->config();
  return (config.num_layers - config.first_k_dense) * config.experts_per_token *
         loaded.model->experts().expert_bytes();
}

// A row per operation, the longest first: of one token, in milliseconds, and what it reads.
void add_operations(Report& report, const OperationTimes& times, double all, double tokens,
                    double dram_gbs) {
  std::vector<std::pair<std::string, OperationTime>> longest(times.begin(), times.end());
  std::sort(longest.begin(), longest.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double rest = all;
  for (const auto& [name, time] : longest) {
    rest -= time.seconds;
    const std::string calls =
        fmt::format("{} ({} calls)", name, static_cast<double>(time.calls) / tokens);
    report.rows.push_back({calls, time.seconds / tokens * 1e3, "ms of a token", 0});
    if (time.bytes > 0)
      report.rows.push_back({"  its weights", time.bytes / time.seconds / 1e9, "GB/s", dram_gbs});
  }
  report.rows.push_back({"between operations", rest / tokens * 1e3, "ms of a token", 0});
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Tokens {
  std::vector<double> seconds;   // of each measured one
  offload::ExpertCounters used;  // by all of them
};

// parts: of the steps, on a marked backend; or null.
Result<Tokens> decode_tokens(session::LoadedModel& loaded, const ModelBenchOptions& options,
                             OperationTimes* times, StepBreakdown* parts,
                             const CancelToken& cancel) {
  StepMarks* marks = parts == nullptr ? nullptr : marks_of(*loaded.backend);
  LS_TRY(Sequence sequence,
         Sequence::create(loaded, options.context + kDecodeWarmUp + options.tokens, options.seed));
  LS_TRY_VOID(sequence.advance_to(options.context, loaded.engine->options().prefill_budget, cancel,
                                  "while filling the context"));
  for (int64_t i = 0; i < kDecodeWarmUp; ++i) LS_TRY_VOID(sequence.step(1));
  if (times != nullptr) times->clear();
  Tokens tokens;
  const offload::ExpertCounters before = loaded.model->experts().counters();
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (cancel.cancelled())
      return fail(ErrorKind::kCancelled, "stopped after {} of {} tokens", i, options.tokens);
    if (marks != nullptr) marks->begin_step();
    const Stopwatch watch;
    LS_TRY_VOID(sequence.step(1));
    tokens.seconds.push_back(watch.seconds());
    if (marks == nullptr) continue;
    LS_TRY(const StepTime step, marks->end_captured_step());
    parts->add(step, tokens.seconds.back());
  }
  tokens.used = loaded.model->experts().counters() - before;
  return tokens;
}

// The same tokens again, with stamps between the parts of a step.
Result<void> add_parts(Report& report, session::LoadedModel& loaded,
                       const ModelBenchOptions& options, const std::string& name,
                       double unmarked_seconds, const CancelToken& cancel) {
  StepMarks& marks = *marks_of(*loaded.backend);
  name_parts(*loaded.backend, loaded.model->weights());
  LS_TRY(const double stamp, marks.stamp_seconds());
  StepBreakdown parts;
  marks.mark(true);
  const auto marked = decode_tokens(loaded, options, nullptr, &parts, cancel);
  marks.mark(false);
  if (!marked) return tl::unexpected<Error>(marked.error());
  parts.write(report, name, unmarked_seconds, stamp);
  parts.write_host(report, name, marked->used);
  return {};
}

}  // namespace

Result<Report> decode_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                            const Ceilings& measured, OperationTimes* times,
                            const CancelToken& cancel) {
  const Ceilings ceilings = bounds(loaded, measured);
  LS_TRY(const Tokens measured_tokens,
         decode_tokens(loaded, options, times, /*parts=*/nullptr, cancel));
  const std::vector<double>& seconds = measured_tokens.seconds;
  const double all = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  const auto tokens = static_cast<double>(options.tokens);
  const double middle = median(seconds);
  const double bytes = static_cast<double>(model::step_bytes(loaded.model->weights()) +
                                           expert_bytes_of_token(loaded));
  Report report = new_report("decode", loaded, ceilings);
  const std::string at = fmt::format("context {}, batch 1", options.context);
  report.rows.push_back({at, 1 / middle, "tokens/s", ceilings.dram_gbs * 1e9 / bytes});
  report.rows.push_back({at + ": weights read", bytes / middle / 1e9, "GB/s", ceilings.dram_gbs});
  report.rows.push_back({at + ": weights of a token", bytes / 1e9, "GB", 0});
  const double full = full_token_bytes(loaded);
  if (full > 0) {
    // By bytes: every layer is bound by reading its weights.
    report.rows.push_back({at + ": projected to 78 layers", bytes / middle / full, "tokens/s",
                           ceilings.dram_gbs * 1e9 / full});
  }
  report.rows.push_back(
      {at + ": slowest token", *std::max_element(seconds.begin(), seconds.end()) * 1e3, "ms", 0});
  if (times != nullptr) add_operations(report, *times, all, tokens, ceilings.dram_gbs);
  if (marks_of(*loaded.backend) != nullptr)
    LS_TRY_VOID(add_parts(report, loaded, options, at, all / tokens, cancel));
  add_memory(report, loaded);
  return report;
}

Result<Report> prefill_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                             const Ceilings& measured, const CancelToken& cancel) {
  const Ceilings ceilings = bounds(loaded, measured);
  std::vector<double> seconds;
  for (int repeat = 0; repeat <= options.repeats; ++repeat) {
    LS_TRY(Sequence sequence,
           Sequence::create(loaded, options.context, options.seed + static_cast<uint64_t>(repeat)));
    const Stopwatch watch;
    LS_TRY_VOID(
        sequence.advance_to(options.context, loaded.engine->options().prefill_budget, cancel,
                            fmt::format("in prompt {} of {}", repeat + 1, options.repeats + 1)));
    if (repeat > 0) seconds.push_back(watch.seconds());  // the first warms up
  }
  double flops = 0;
  for (int64_t t = 0; t < options.context; ++t)
    flops += model::token_flops(loaded.checkpoint->config(), t);
  const double middle = median(seconds);
  const auto tokens = static_cast<double>(options.context);
  Report report = new_report("prefill", loaded, ceilings);
  const std::string at = fmt::format("{} tokens in chunks of {}", options.context,
                                     loaded.engine->options().prefill_budget);
  report.rows.push_back(
      {at, tokens / middle, "tokens/s", ceilings.fma_gflops * 1e9 / (flops / tokens)});
  report.rows.push_back(
      {at + ": arithmetic", flops / middle / 1e9, "GFLOP/s", ceilings.fma_gflops});
  report.rows.push_back(
      {at + ": slowest prompt", *std::max_element(seconds.begin(), seconds.end()), "s", 0});
  add_memory(report, loaded);
  return report;
}

}  // namespace longshore::bench
