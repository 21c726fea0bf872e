#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Higher logit first, lower id first among equals.
bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

double log_sum_exp(std::span<const float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  return highest + std::log(sum);
}

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void fill_logprobs(std::span<const float> logits, int32_t wanted, Sampled& sampled) {
  const double total = log_sum_exp(logits);
  sampled.logprob = static_cast<float>(logits[static_cast<size_t>(sampled.id)] - total);
  std::vector<std::pair<float, int32_t>> order;
  order.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) order.emplace_back(logits[i], static_cast<int32_t>(i));
  const auto count = std::min<size_t>(static_cast<size_t>(wanted), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), before);
  for (size_t i = 0; i < count; ++i) {
    sampled.top_logprobs.emplace_back(order[i].second, static_cast<float>(order[i].first - total));
  }
}

// SplitMix64 (Steele, Lea, Flood 2014), used as a counter-based generator.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

Result<void> in_range(const char* field, float value, float low, bool low_open, float high, bool high_open) {
  const bool ok = std::isfinite(value) && (low_open ? value > low : value >= low) &&
                  (high_open ? value < high : value <= high);
  if (ok) return {};
  return fail(ErrorKind::kUsage, "{} is {}: it must lie in {}{}, {}{}", field, value, low_open ? '(' : '[', low, high,
              high_open ? ')' : ']');
}

}  // namespace

Result<void> SamplingParams::validate(int64_t vocab_size) const {
  LS_TRY_VOID(in_range("temperature", temperature, 0, false, 100, false));
  LS_TRY_VOID(in_range("top_p", top_p, 0, true, 1, false));
  LS_TRY_VOID(in_range("min_p", min_p, 0, false, 1, true));
  LS_TRY_VOID(in_range("repetition_penalty", repetition_penalty, 0, true, 100, false));
  LS_TRY_VOID(in_range("presence_penalty", presence_penalty, -2, false, 2, false));
  LS_TRY_VOID(in_range("frequency_penalty", frequency_penalty, -2, false, 2, false));
  if (top_k < -1) return fail(ErrorKind::kUsage, "top_k is {}: it must be -1 (off) or at least 0", top_k);
  if (top_logprobs < -1 || top_logprobs > 20) {
    return fail(ErrorKind::kUsage, "top_logprobs is {}: it must lie in [0, 20]", top_logprobs);
  }
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return fail(ErrorKind::kUsage, "logit_bias names token {}: the vocabulary has {}", id, vocab_size);
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

void Sampler::accept(int32_t id) { ++output_counts_[id]; }

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

double Sampler::uniform() {
  return static_cast<double>(mix(mix(params_.seed) ^ draws_++) >> 11) * 0x1p-53;  // [0, 1)
}

int32_t Sampler::draw(std::span<const float> logits) {
  if (params_.temperature == 0) return argmax(logits);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != kNever) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  }
  if (candidates_.empty()) return argmax(logits);
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    const auto cut = candidates_.begin() + params_.top_k;
    std::nth_element(candidates_.begin(), cut, candidates_.end(), before);
    candidates_.erase(cut, candidates_.end());
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
  std::vector<double> mass(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < mass.size(); ++i) {
    // The difference first: a logit over a tiny temperature is infinite.
    mass[i] = std::exp((static_cast<double>(candidates_[i].first) - candidates_[0].first) /
                       params_.temperature);
    total += mass[i];
  }
  // The smallest set whose probability reaches top_p, of these the ones with at least min_p of the highest.
  double kept = 0;
  size_t count = 0;
  while (count < mass.size() && mass[count] >= params_.min_p && (count == 0 || kept < params_.top_p * total)) {
    kept += mass[count++];
  }
  double target = uniform() * kept;
  for (size_t i = 0; i < count; ++i) {
    target -= mass[i];
    if (target < 0) return candidates_[i].second;
  }
  return candidates_[count - 1].second;
}

Sampled Sampler::sample(std::span<float> logits, std::span<const int32_t> banned) {
  LS_CHECK(!logits.empty());
  for (int32_t id : banned) logits[static_cast<size_t>(id)] = kNever;
  penalise(logits);
  Sampled sampled;
  sampled.id = draw(logits);
  if (params_.top_logprobs >= 0) fill_logprobs(logits, params_.top_logprobs, sampled);
  return sampled;
}

}  // namespace longshore::engine
