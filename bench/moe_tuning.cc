#include "bench/moe_tuning.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "kernels/format/bf16.h"
#include "kernels/moe_variants.h"

namespace longshore::bench {
namespace {

using device::Buffer;
using kernels::ExpertView;
using kernels::kMoeVariants;

constexpr int64_t kBlock = 128;      // rows and columns of a scale
constexpr int64_t kJudged = 8;       // tokens whose sums are compared
constexpr int kSamples = 5;          // timed launches, of which the median counts
constexpr double kLaunch = 4e-3;     // seconds of one, so that what it costs the host does not show
constexpr int64_t kMostCalls = 128;  // in one launch
constexpr double kHopeless = 3;      // times the best: not measured any further
constexpr double kAsGood = 1.01;     // times the best

template <typename T>
Result<Buffer> uploaded(kernels::Backend& backend, const std::vector<T>& host, const char* what) {
  const auto bytes = static_cast<int64_t>(host.size() * sizeof(T));
  LS_TRY(Buffer buffer, Buffer::allocate(backend.memory(), bytes, what));
  LS_TRY_VOID(backend.memory().upload(buffer.data(), host.data(), bytes));
  return buffer;
}

std::vector<uint8_t> random_codes(int64_t count) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  std::mt19937 engine(7);
  for (uint8_t& code : codes) {
    code = static_cast<uint8_t>(engine());
    if ((code & 0x7F) == 0x7F) code ^= 1;  // no NaN
  }
  return codes;
}

std::vector<int32_t> draw_routes(int64_t tokens, const MoeShape& shape, bool joined,
                                 std::mt19937& engine) {
  std::vector<int32_t> order(static_cast<size_t>(shape.experts));
  std::iota(order.begin(), order.end(), 0);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < shape.top_k; ++i) {
      const auto at = static_cast<size_t>(i);
      const auto left = static_cast<uint32_t>(shape.experts - i);
      std::swap(order[at], order[at + engine() % left]);
      ids.push_back(order[at]);
    }
    if (joined) ids.push_back(static_cast<int32_t>(shape.experts));
  }
  return ids;
}

std::string time_text(double seconds) {
  return seconds < 1e-2 ? fmt::format("{:.1f} us", seconds * 1e6)
                        : fmt::format("{:.2f} ms", seconds * 1e3);
}

}  // namespace

Result<void> MoeShape::validate() const {
  constexpr int64_t kMost = 1 << 20;
  if (hidden < kBlock || hidden > kMost || hidden % kBlock != 0)
    return fail(ErrorKind::kUsage, "a hidden size of {}: use a multiple of {} up to {}", hidden,
                kBlock, kMost);
  if (intermediate < kBlock || intermediate > kMost || intermediate % kBlock != 0)
    return fail(ErrorKind::kUsage, "N = {}: use a multiple of {} up to {}", intermediate, kBlock,
                kMost);
  constexpr int64_t kMostExperts = 4095;  // and the shared one
  if (experts < 1 || experts > kMostExperts)
    return fail(ErrorKind::kUsage, "{} experts: use 1 to {}", experts, kMostExperts);
  if (top_k < 1 || top_k > experts)
    return fail(ErrorKind::kUsage, "{} experts a token: use 1 to {}", top_k, experts);
  return {};
}

std::string MoeTimes::json(kernels::MoeTable kept) const {
  nlohmann::ordered_json file;
  for (const Row& row : rows) kept[row.tokens] = kMoeVariants[row.best].tile;
  for (const auto& [tokens, tile] : kept) {
    file[std::to_string(tokens)] = {{"BLOCK_SIZE_M", tile.block_m}, {"BLOCK_SIZE_N", tile.block_n},
                                    {"BLOCK_SIZE_K", tile.block_k}, {"GROUP_SIZE_M", tile.group_m},
                                    {"num_warps", tile.warps},      {"num_stages", tile.stages}};
  }
  return file.dump(4) + "\n";
}

std::string MoeTimes::table() const {
  std::string text = fmt::format("{}\n{:>6}", file_name, "M");
  for (const kernels::MoeVariant& form : kMoeVariants) text += fmt::format("{:>12}", form.name);
  text += "  best\n";
  for (const Row& row : rows) {
    text += fmt::format("{:>6}", row.tokens);
    for (const std::optional<double>& seconds : row.seconds)
      text += fmt::format("{:>12}", seconds ? time_text(*seconds) : "-");
    text += fmt::format("  {}\n", kMoeVariants[row.best].name);
  }
  return text;
}

// The calls of one number of tokens.
struct MoeTuner::Case {
  bool w8a8 = false;
  std::vector<Buffer> ids;                     // of each call, in turn
  std::vector<kernels::ExpertsParams> params;  // [ids]
  std::vector<float> judged;                   // sums of the first form; empty: none yet
};

Result<MoeTuner> MoeTuner::create(kernels::Backend& backend, const MoeShape& shape,
                                  int64_t most_tokens) {
  LS_TRY_VOID(shape.validate());
  LS_CHECK(most_tokens >= 1);
  auto* forms = dynamic_cast<kernels::MoeTuning*>(&backend);
  auto* graphs = dynamic_cast<device::Graphs*>(&backend);
  if (forms == nullptr || graphs == nullptr) {
    return fail(ErrorKind::kDevice,
                "the {} backend has one form of the experts' products: there is nothing to choose",
                backend.name());
  }
  MoeTuner tuner(backend, *forms, *graphs, shape);
  LS_TRY_VOID(tuner.load_weights());
  LS_TRY_VOID(tuner.load_inputs(most_tokens));
  return tuner;
}

Result<void> MoeTuner::load_weights() {
  const int64_t matrix = shape_.hidden * shape_.intermediate;
  const int64_t blocks = matrix / (kBlock * kBlock);
  const int64_t experts = shape_.experts + 1;
  const int64_t bytes = experts * 3 * matrix;
  device::Memory& memory = backend_->memory();
  LS_TRY(weights_, Buffer::allocate(memory, bytes, "experts"));
  // One piece of random codes again and again, of a length that no expert has.
  const std::vector<uint8_t> codes = random_codes(std::min<int64_t>(bytes, (64 << 20) - 4099));
  const auto piece = static_cast<int64_t>(codes.size());
  for (int64_t at = 0; at < bytes; at += piece) {
    LS_TRY_VOID(
        memory.upload(weights_.data() + at, codes.data(), std::min<int64_t>(piece, bytes - at)));
  }
  std::vector<float> scales(static_cast<size_t>(experts * 3 * blocks));
  std::mt19937 engine(8);
  std::uniform_real_distribution<float> scale(1e-4F, 6e-4F);
  for (float& s : scales) s = scale(engine);
  LS_TRY(scales_, uploaded(*backend_, scales, "scales of experts"));
  for (int64_t e = 0; e < experts; ++e) {
    ExpertView view;
    int64_t at = 3 * e;
    for (WeightView* w : {&view.gate, &view.up, &view.down}) {
      w->data = weights_.data() + at * matrix;
      w->dtype = DType::kF8E4M3;
      w->out = w == &view.down ? shape_.hidden : shape_.intermediate;
      w->in = w == &view.down ? shape_.intermediate : shape_.hidden;
      w->scale = reinterpret_cast<const float*>(scales_.data()) + at * blocks;
      w->scale_stride = w->in / kBlock;
      ++at;
    }
    views_.push_back(view);
  }
  LS_TRY(table_, uploaded(*backend_, views_, "table of experts"));
  return {};
}

Result<void> MoeTuner::load_inputs(int64_t most_tokens) {
  std::mt19937 engine(9);
  std::normal_distribution<float> normal;
  const auto count = static_cast<size_t>(most_tokens * shape_.hidden);
  if (backend_->activation_dtype() == DType::kBF16) {
    std::vector<uint16_t> x(count);
    for (uint16_t& value : x) value = kernels::bf16_from_float(normal(engine));
    LS_TRY(x_, uploaded(*backend_, x, "inputs"));
  } else {
    std::vector<float> x(count);
    for (float& value : x) value = normal(engine);
    LS_TRY(x_, uploaded(*backend_, x, "inputs"));
  }
  LS_TRY(y_, uploaded(*backend_, std::vector<float>(count), "sums"));
  std::vector<float> weights(static_cast<size_t>(most_tokens * (shape_.top_k + 1)));
  std::uniform_real_distribution<float> weight(0.2F, 0.5F);
  for (float& w : weights) w = weight(engine);
  LS_TRY(route_weights_, uploaded(*backend_, weights, "weights of routes"));
  return {};
}

Result<MoeTuner::Case> MoeTuner::make_case(bool joined, bool w8a8, int64_t tokens) {
  Case work;
  work.w8a8 = w8a8;
  const DType act = backend_->activation_dtype();
  const int64_t hidden = shape_.hidden;
  std::mt19937 engine(static_cast<uint32_t>(tokens));
  const int sets = tokens <= 64 ? 8 : 2;
  for (int i = 0; i < sets; ++i) {
    LS_TRY(Buffer ids, uploaded(*backend_, draw_routes(tokens, shape_, joined, engine), "routes"));
    kernels::ExpertsParams p;
    p.x = {x_.data(), act, tokens, hidden, hidden};
    p.ids = reinterpret_cast<const int32_t*>(ids.data());
    p.weights = reinterpret_cast<const float*>(route_weights_.data());
    p.top_k = shape_.top_k + (joined ? 1 : 0);
    p.experts = reinterpret_cast<const ExpertView*>(table_.data());
    p.num_experts = shape_.experts + (joined ? 1 : 0);
    p.shape = kernels::shape_of(views_.front());
    p.y = {y_.data(), DType::kF32, tokens, hidden, hidden};
    work.params.push_back(p);
    work.ids.push_back(std::move(ids));
  }
  return work;
}

Result<double> MoeTuner::once(const Case& work, size_t form) {
  LS_TRY_VOID(backend_->synchronize());
  const Stopwatch watch;
  forms_->experts_by(form, work.params.front(), work.w8a8);
  LS_TRY_VOID(backend_->synchronize());
  return watch.seconds();
}

// Also the first call, which loads the form's code.
Result<void> MoeTuner::compare(Case& work, size_t form) {
  const kernels::ExpertsParams& p = work.params.front();
  std::vector<float> sums(static_cast<size_t>(std::min(p.x.rows, kJudged) * shape_.hidden));
  const auto bytes = static_cast<int64_t>(sums.size() * sizeof(float));
  LS_TRY_VOID(backend_->memory().upload(y_.data(), sums.data(), bytes));
  forms_->experts_by(form, p, work.w8a8);
  LS_TRY_VOID(backend_->synchronize());
  LS_TRY_VOID(backend_->memory().download(sums.data(), y_.data(), bytes));
  if (work.judged.empty()) {
    work.judged = std::move(sums);
    return {};
  }
  double largest = 1e-30;
  double worst = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double difference = std::abs(static_cast<double>(sums[i]) - work.judged[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    largest = std::max(largest, std::abs(static_cast<double>(work.judged[i])));
  }
  // Intermediate results are rounded to bf16 or FP8.
  const double tolerance = work.w8a8 ? 8e-2 : 4e-3;
  if (worst <= tolerance * largest) return {};
  return fail(ErrorKind::kDevice,
              "{} tokens: the experts' form \"{}\" is {:.1e} of the largest sum away from \"{}\": "
              "its results are wrong on this device",
              p.x.rows, kMoeVariants[form].name, worst / largest, kMoeVariants[0].name);
}

Result<std::optional<double>> MoeTuner::seconds(Case& work, size_t form, double best) {
  LS_TRY_VOID(compare(work, form));
  LS_TRY(const double first, once(work, form));
  if (first > kHopeless * best + 1e-4) return std::optional<double>();
  const auto sets = static_cast<int64_t>(work.params.size());
  const auto wanted = static_cast<int64_t>(kLaunch / first) + 1;
  const int64_t calls = (std::min(wanted, kMostCalls) + sets - 1) / sets * sets;
  graphs_->begin_capture();
  for (int64_t i = 0; i < calls; ++i)
    forms_->experts_by(form, work.params[static_cast<size_t>(i % sets)], work.w8a8);
  LS_TRY(const device::Graphs::Id graph, graphs_->end_capture());
  std::vector<double> samples;
  Result<void> done;
  for (int i = 0; i <= kSamples && done; ++i) {  // the first one warms up
    const Stopwatch watch;
    graphs_->launch(graph);
    done = backend_->synchronize();
    if (i > 0) samples.push_back(watch.seconds() / static_cast<double>(calls));
  }
  graphs_->drop(graph);
  LS_TRY_VOID(done);
  std::sort(samples.begin(), samples.end());
  return std::optional(samples[samples.size() / 2]);
}

Result<MoeTimes::Row> MoeTuner::measure_row(Case& work, const CancelToken& cancel) {
  MoeTimes::Row row;
  row.tokens = work.params.front().x.rows;
  row.seconds.resize(std::size(kMoeVariants));
  const std::vector<size_t> usable = forms_->expert_variants(work.params.front());
  if (usable.empty()) {
    return fail(ErrorKind::kDevice, "no compiled form computes experts of {} x {} on {}",
                shape_.intermediate, shape_.hidden, forms_->device_name());
  }
  double best = INFINITY;
  for (const size_t form : usable) {
    if (cancel.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    LS_TRY(row.seconds[form], seconds(work, form, best));
    best = std::min(best, row.seconds[form].value_or(INFINITY));
  }
  const auto good = std::find_if(row.seconds.begin(), row.seconds.end(), [best](const auto& time) {
    return time && *time <= kAsGood * best;
  });
  row.best = static_cast<size_t>(good - row.seconds.begin());
  return row;
}

Result<MoeTimes> MoeTuner::measure(bool joined, bool w8a8, const std::vector<int64_t>& tokens,
                                   const CancelToken& cancel) {
  MoeTimes times;
  times.file_name =
      kernels::moe_config_name(shape_.experts + (joined ? 1 : 0), shape_.intermediate,
                               forms_->device_name(), w8a8 ? "fp8_w8a8" : "fp8_w8a16");
  for (const int64_t m : tokens) {
    LS_TRY(Case work, make_case(joined, w8a8, m));
    LS_TRY(MoeTimes::Row row, measure_row(work, cancel));
    times.rows.push_back(std::move(row));
  }
  return times;
}

}  // namespace longshore::bench
