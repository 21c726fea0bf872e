#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

using Candidate = std::pair<float, int32_t>;

// Higher logit first, lower id first among equals. A strict weak order for every input: NaN comes
// after all numbers.
bool before(const Candidate& a, const Candidate& b) {
  const bool a_nan = std::isnan(a.first);
  const bool b_nan = std::isnan(b.first);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.first != b.first) return a.first > b.first;
  return a.second < b.second;
}

// The first of the highest, NaN never; 0 where nothing is above -infinity.
int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  float highest = kNever;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > highest) {
      highest = logits[i];
      best = i;
    }
  }
  return static_cast<int32_t>(best);
}

double log_sum_exp(std::span<const float> logits) {
  const double highest = logits[static_cast<size_t>(argmax(logits))];
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

double Sampler::uniform() {
  return static_cast<double>(mix(mix(params_.seed) ^ draws_++) >> 11) * 0x1p-53;  // [0, 1)
}

void Sampler::sort_up_to(size_t count) {
  if (count <= sorted_) return;
  // Grows by factors: a draw mostly ends among the first few, and nothing behind them is put in
  // order.
  const size_t end = std::min(candidates_.size(), std::max<size_t>(256, 4 * sorted_));
  const auto at = [&](size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
  if (end < candidates_.size()) std::nth_element(at(sorted_), at(end), candidates_.end(), before);
  std::sort(at(sorted_), at(end), before);
  sorted_ = end;
}

int32_t Sampler::draw(std::span<const float> logits) {
  const int32_t best = argmax(logits);
  const double highest = logits[static_cast<size_t>(best)];
  if (params_.temperature == 0 || !std::isfinite(highest)) return best;
  candidates_.clear();
  sorted_ = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kNever) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  }
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    const auto cut = candidates_.begin() + params_.top_k;
    std::nth_element(candidates_.begin(), cut, candidates_.end(), before);
    candidates_.erase(cut, candidates_.end());
  }
  const auto mass = [&](size_t i) {
    // The difference first: a logit over a tiny temperature is infinite.
    return std::exp((static_cast<double>(candidates_[i].first) - highest) / params_.temperature);
  };
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) total += mass(i);
  // The smallest set whose probability reaches top_p, of these the ones with at least min_p of the
  // highest.
  double kept = total;
  size_t count = candidates_.size();
  if (params_.top_p < 1 || params_.min_p > 0) {
    kept = 0;
    for (count = 0; count < candidates_.size(); ++count) {
      sort_up_to(count + 1);
      const double next = mass(count);
      if (next < params_.min_p || (count > 0 && kept >= params_.top_p * total)) break;
      kept += next;
    }
  }
  double target = uniform() * kept;
  for (size_t i = 0; i < count; ++i) {
    sort_up_to(i + 1);
    target -= mass(i);
    if (target < 0) return candidates_[i].second;
  }
  return candidates_[count - 1].second;
}

bool all_finite(std::span<const float> logits) {
  // Integer arithmetic without a branch: a float sum could not be vectorised.
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t bad = 0;
  for (const float logit : logits)
    bad |= (std::bit_cast<uint32_t>(logit) & kExponent) == kExponent ? 1U : 0U;
  return bad == 0;
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
