#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

using kernels::before;
using kernels::Candidate;

double log_sum_exp(std::span<const float> logits) {
  const double highest = logits[static_cast<size_t>(kernels::place_of_highest(logits))];
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  return highest + std::log(sum);
}

// The `count` first in the order of before(), sorted: a heap of the best so far, whose root is the
// one to beat.
std::vector<Candidate> highest(std::span<const float> logits, size_t count) {
  std::vector<Candidate> best;
  count = std::min(count, logits.size());
  if (count == 0) return best;
  best.reserve(count + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate(logits[i], static_cast<int32_t>(i));
    if (best.size() == count && !before(candidate, best.front())) continue;
    best.push_back(candidate);
    std::push_heap(best.begin(), best.end(), before);
    if (best.size() <= count) continue;
    std::pop_heap(best.begin(), best.end(), before);
    best.pop_back();
  }
  std::sort_heap(best.begin(), best.end(), before);
  return best;
}

// Logits of ids that are not allowed become -infinity, 64 at a time.
void mask(std::span<float> logits, std::span<const uint64_t> allowed) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    const uint64_t bits = allowed[word];
    if (bits == ~uint64_t{0}) continue;
    const size_t first = word * 64;
    const size_t count = std::min<size_t>(64, logits.size() - first);
    for (size_t i = 0; i < count; ++i) {
      if (((bits >> i) & 1U) == 0) logits[first + i] = kNever;
    }
  }
}

void fill_logprobs(std::span<const float> logits, int32_t wanted, bool constrained,
                   Sampled& sampled) {
  const double total = log_sum_exp(logits);
  sampled.logprob = static_cast<float>(logits[static_cast<size_t>(sampled.id)] - total);
  for (const auto& [logit, id] : highest(logits, static_cast<size_t>(wanted))) {
    if (constrained && logit == kNever) break;
    sampled.top_logprobs.emplace_back(id, static_cast<float>(logit - total));
  }
}

// SplitMix64 (Steele, Lea, Flood 2014), used as a counter-based generator.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

Result<void> in_range(const char* field, float value, float low, bool low_open, float high,
                      bool high_open) {
  const bool ok = std::isfinite(value) && (low_open ? value > low : value >= low) &&
                  (high_open ? value < high : value <= high);
  if (ok) return {};
  return fail(ErrorKind::kUsage, "{} is {}: it must lie in {}{}, {}{}", field, value,
              low_open ? '(' : '[', low, high, high_open ? ')' : ']');
}

}  // namespace

Result<void> SamplingParams::validate(int64_t vocab_size) const {
  LS_TRY_VOID(in_range("temperature", temperature, 0, false, 100, false));
  LS_TRY_VOID(in_range("top_p", top_p, 0, true, 1, false));
  LS_TRY_VOID(in_range("min_p", min_p, 0, false, 1, true));
  LS_TRY_VOID(in_range("repetition_penalty", repetition_penalty, 0, true, 100, false));
  LS_TRY_VOID(in_range("presence_penalty", presence_penalty, -2, false, 2, false));
  LS_TRY_VOID(in_range("frequency_penalty", frequency_penalty, -2, false, 2, false));
  if (top_k < -1)
    return fail(ErrorKind::kUsage, "top_k is {}: it must be -1 (off) or at least 0", top_k);
  if (top_logprobs < -1 || top_logprobs > 20) {
    return fail(ErrorKind::kUsage, "top_logprobs is {}: it must lie in [0, 20]", top_logprobs);
  }
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return fail(ErrorKind::kUsage, "logit_bias names token {}: the vocabulary has {}", id,
                  vocab_size);
    }
    LS_TRY_VOID(in_range("logit_bias", bias, -100, false, 100, false));
  }
  return {};
}

Sampler::Sampler(SamplingParams params, std::span<const int32_t> prompt)
    : params_(std::move(params)), prompt_ids_(prompt.begin(), prompt.end()) {
  std::sort(prompt_ids_.begin(), prompt_ids_.end());
  prompt_ids_.erase(std::unique(prompt_ids_.begin(), prompt_ids_.end()), prompt_ids_.end());
}

bool Sampler::draws_only() const {
  const SamplingParams& p = params_;
  return p.logit_bias.empty() && p.repetition_penalty == 1 && p.presence_penalty == 0 &&
         p.frequency_penalty == 0 && p.top_logprobs < 0;
}

void Sampler::count_draw() {
  if (params_.temperature != 0) ++draws_;
}

void Sampler::accept(int32_t id) {
  ++output_counts_[id];
}

void Sampler::penalise(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  if (params_.repetition_penalty != 1) {
    const auto repeat = [&](int32_t id) {
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    };
    for (int32_t id : prompt_ids_) repeat(id);
    for (const auto& [id, count] : output_counts_) {
      if (!std::binary_search(prompt_ids_.begin(), prompt_ids_.end(), id)) repeat(id);
    }
  }
  for (const auto& [id, count] : output_counts_) {
    logits[static_cast<size_t>(id)] -=
        params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
  }
}

double Sampler::uniform(uint64_t draw) const {
  return static_cast<double>(mix(mix(params_.seed) ^ draw) >> 11) * 0x1p-53;  // [0, 1)
}

kernels::DrawRule Sampler::rule(uint64_t ahead) const {
  return {.temperature = params_.temperature,
          .top_k = params_.top_k,
          .top_p = params_.top_p,
          .min_p = params_.min_p,
          .uniform = uniform(draws_ + ahead)};
}

int32_t Sampler::draw(std::span<const float> logits) {
  const int32_t id = draw_row_(logits, rule(0));
  count_draw();
  return id;
}

int32_t Sampler::propose(std::span<float> logits, std::span<const int32_t> banned,
                         std::span<const uint64_t> allowed, uint64_t ahead) {
  mask(logits, allowed);
  for (int32_t id : banned) logits[static_cast<size_t>(id)] = kNever;
  penalise(logits);
  const uint64_t draws = draws_;
  draws_ += ahead;
  const int32_t id = draw(logits);
  draws_ = draws;
  return id;
}

Sampled Sampler::sample(std::span<float> logits, std::span<const int32_t> banned,
                        std::span<const uint64_t> allowed) {
  LS_CHECK(!logits.empty());
  LS_CHECK(allowed.empty() || allowed.size() == (logits.size() + 63) / 64);
  mask(logits, allowed);
  for (int32_t id : banned) logits[static_cast<size_t>(id)] = kNever;
  penalise(logits);
  Sampled sampled;
  sampled.id = draw(logits);
  if (params_.top_logprobs >= 0)
    fill_logprobs(logits, params_.top_logprobs, !allowed.empty(), sampled);
  return sampled;
}

}  // namespace longshore::engine
