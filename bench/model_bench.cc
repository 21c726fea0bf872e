#include "bench/model_bench.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <fmt/format.h>

#include "base/clock.h"
#include "bench/ceilings.h"
#include "engine/kv_pool.h"
#include "model/cost.h"

namespace longshore::bench {
namespace {

// One sequence of random ids that grows by steps of any length.
class Sequence {
 public:
  static Result<Sequence> create(session::LoadedModel& loaded, int64_t length, uint64_t seed) {
    const GlmConfig& config = loaded.checkpoint->config();
    if (length > config.max_positions) {
      return fail(ErrorKind::kUsage, "{} tokens, and the model has {} positions", length,
                  config.max_positions);
    }
    LS_TRY(engine::KvPool pool, engine::KvPool::create(loaded.layout, engine::pages_for(length)));
    Sequence sequence(loaded, std::move(pool));
    LS_CHECK(sequence.pool_.grow(sequence.pages_, engine::pages_for(length)));
    std::mt19937_64 random(seed);
    for (int64_t i = 0; i < length; ++i) {
      sequence.ids_.push_back(
          static_cast<int32_t>(random() % static_cast<uint64_t>(config.vocab_size)));
    }
    sequence.positions_.resize(sequence.ids_.size());
    std::iota(sequence.positions_.begin(), sequence.positions_.end(), 0);
    sequence.sequence_of_.resize(sequence.ids_.size(), 0);
    sequence.logits_.resize(static_cast<size_t>(config.vocab_size));
    return sequence;
  }

  void step(int64_t tokens) {
    const int32_t last = static_cast<int32_t>(tokens - 1);
    model::StepInput input;
    input.ids = ids_.data() + done_;
    input.batch = {.tokens = tokens,
                   .sequences = 1,
                   .positions = positions_.data() + done_,
                   .sequence_of = sequence_of_.data(),
                   .page_table = pages_.data(),
                   .page_table_width = static_cast<int64_t>(pages_.size())};
    input.logit_rows = std::span(&last, 1);
    input.caches = pool_.caches();
    const auto vocab = static_cast<int64_t>(logits_.size());
    model::StepOutput output;
    output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, 1, vocab, vocab};
    LS_CHECK(loaded_->model->forward(input, output));
    done_ += tokens;
  }

  // False when cancelled.
  bool advance_to(int64_t length, const CancelToken& cancel) {
    while (done_ < length) {
      if (cancel.cancelled()) return false;
      step(std::min(loaded_->engine->options().prefill_budget, length - done_));
    }
    return true;
  }

 private:
  Sequence(session::LoadedModel& loaded, engine::KvPool pool)
      : loaded_(&loaded), pool_(std::move(pool)) {}

  session::LoadedModel* loaded_;
  engine::KvPool pool_;
  std::vector<int32_t> pages_, ids_, positions_, sequence_of_;
  std::vector<float> logits_;
  int64_t done_ = 0;
};

Report new_report(const char* name, const session::LoadedModel& loaded, const Ceilings& ceilings) {
  Report report;
  report.bench = fmt::format("{} {}", name, loaded.checkpoint->where());
  report.machine = fmt::format("{}, {}", machine_name(loaded.pool->size()), loaded.backend->name());
  report.ceilings = {{fmt::format("DRAM read GB/s, {}-bit loads", load_bits()), ceilings.dram_gbs},
                     {"fp32 FMA GFLOP/s", ceilings.fma_gflops}};
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
  if (dense == 0 || moe == 0) return 0;
  moe += loaded.checkpoint->config().experts_per_token * loaded.model->experts().expert_bytes();
  return static_cast<double>(rest + kDenseLayers * dense + kMoeLayers * moe);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

Result<Report> decode_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                            const Ceilings& ceilings, const CancelToken& cancel) {
  LS_TRY(Sequence sequence,
         Sequence::create(loaded, options.context + kDecodeWarmUp + options.tokens, options.seed));
  if (!sequence.advance_to(options.context, cancel))
    return fail(ErrorKind::kCancelled, "stopped while filling the context");
  for (int64_t i = 0; i < kDecodeWarmUp; ++i) sequence.step(1);
  const int64_t expert_bytes = loaded.model->experts().counters().bytes_read;
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (cancel.cancelled())
      return fail(ErrorKind::kCancelled, "stopped after {} of {} tokens", i, options.tokens);
    const Stopwatch watch;
    sequence.step(1);
    seconds.push_back(watch.seconds());
  }
  const double middle = median(seconds);
  const double experts =
      static_cast<double>(loaded.model->experts().counters().bytes_read - expert_bytes) /
      static_cast<double>(options.tokens);
  const double bytes = static_cast<double>(model::step_bytes(loaded.model->weights())) + experts;
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
  add_memory(report, loaded);
  return report;
}

Result<Report> prefill_bench(session::LoadedModel& loaded, const ModelBenchOptions& options,
                             const Ceilings& ceilings, const CancelToken& cancel) {
  std::vector<double> seconds;
  for (int repeat = 0; repeat <= options.repeats; ++repeat) {
    LS_TRY(Sequence sequence,
           Sequence::create(loaded, options.context, options.seed + static_cast<uint64_t>(repeat)));
    const Stopwatch watch;
    if (!sequence.advance_to(options.context, cancel)) {
      return fail(ErrorKind::kCancelled, "stopped in prompt {} of {}", repeat + 1,
                  options.repeats + 1);
    }
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
