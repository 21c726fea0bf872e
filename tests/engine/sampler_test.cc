#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshore::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Logits = std::vector<float>;

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

Sampled sample_once(const SamplingParams& params, Logits logits, std::vector<int32_t> prompt = {},
                    std::vector<int32_t> banned = {}) {
  return Sampler(params, prompt).sample(logits, banned);
}

std::vector<int64_t> counts(const SamplingParams& params, const Logits& logits, int64_t draws) {
  std::vector<int64_t> result(logits.size());
  Sampler sampler(params, {});
  for (int64_t i = 0; i < draws; ++i) {
    Logits copy = logits;
    ++result[static_cast<size_t>(sampler.sample(copy).id)];
  }
  return result;
}

std::set<int32_t> support(const SamplingParams& params, const Logits& logits,
                          int64_t draws = 4000) {
  const std::vector<int64_t> drawn = counts(params, logits, draws);
  std::set<int32_t> ids;
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (drawn[i] > 0) ids.insert(static_cast<int32_t>(i));
  }
  return ids;
}

std::vector<double> softmax(const Logits& logits, double temperature) {
  std::vector<double> result;
  double sum = 0;
  for (float logit : logits) sum += result.emplace_back(std::exp(logit / temperature));
  for (double& p : result) p /= sum;
  return result;
}

double chi_square(const std::vector<int64_t>& drawn, const std::vector<double>& p, int64_t draws) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * static_cast<double>(draws);
    sum += std::pow(static_cast<double>(drawn[i]) - expected, 2) / expected;
  }
  return sum;
}

// What the sampler makes of the logits, before the draw.
Logits processed(const SamplingParams& params, Logits logits, std::vector<int32_t> prompt,
                 std::vector<int32_t> output) {
  Sampler sampler(params, prompt);
  for (int32_t id : output) sampler.accept(id);
  (void)sampler.sample(logits);
  return logits;
}

TEST(Sampler, GreedyTakesTheHighestAndTheLowerIdOfATie) {
  EXPECT_EQ(sample_once(greedy(), {0, 3, 1}).id, 1);
  EXPECT_EQ(sample_once(greedy(), {1, 5, 5, 0, 5}).id, 1);
  EXPECT_EQ(sample_once(greedy(), {-7, -7}).id, 0);
}

TEST(Sampler, BannedIdsAreNeverChosen) {
  EXPECT_EQ(sample_once(greedy(), {0, 3, 1}, {}, {1}).id, 2);
  SamplingParams params = greedy();
  params.logit_bias = {{1, 100.0F}};
  EXPECT_EQ(sample_once(params, {0, 3, 1}, {}, {1, 2}).id, 0);
  SamplingParams hot;
  hot.temperature = 100;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    hot.seed = seed;
    EXPECT_NE(sample_once(hot, {0, 3, 1}, {}, {1}).id, 1);
  }
}

TEST(Sampler, DrawsFollowTheSoftmaxAtEveryTemperature) {
  const Logits logits = {1.0F, 0.0F, -1.0F, 2.0F, 0.5F, 0.5F, -2.0F, 1.5F};
  constexpr int64_t kDraws = 100000;
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 7;
    // 0.999 quantile of chi-square with 7 degrees of freedom: 24.32.
    EXPECT_LT(chi_square(counts(params, logits, kDraws), softmax(logits, temperature), kDraws),
              24.32)
        << temperature;
  }
}

TEST(Sampler, ATinyTemperatureIsGreedyNotUndefined) {
  SamplingParams params;
  params.temperature = 1e-38F;
  EXPECT_THAT(support(params, {10, 12, 11.99F}, 200), ElementsAre(1));
  params.min_p = 0.1F;
  params.top_p = 0.5F;
  EXPECT_THAT(support(params, {-10, -12, -11.99F}, 200), ElementsAre(0));
}

TEST(Sampler, TopKKeepsTheHighestAndTheLowerIdOfATie) {
  SamplingParams params;
  params.top_k = 2;
  EXPECT_THAT(support(params, {0, 1, 0.5F, -1}), ElementsAre(1, 2));
  EXPECT_THAT(support(params, {1, 1, 1, 1}), ElementsAre(0, 1));
  params.top_k = 1;
  EXPECT_THAT(support(params, {0, 0, 0.1F}), ElementsAre(2));
  for (const int32_t off : {-1, 0, 4, 100}) {
    params.top_k = off;
    EXPECT_THAT(support(params, {0, 0, 0, 0}), ElementsAre(0, 1, 2, 3));
  }
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities 1/2, 1/4, 1/8, 1/8; the logits are exact multiples of ln 2 up to rounding.
  const float step = std::log(2.0F);
  const Logits logits = {-step, 0, -2 * step, -2 * step};
  SamplingParams params;
  params.top_p = 0.49F;
  EXPECT_THAT(support(params, logits), ElementsAre(1));
  params.top_p = 0.51F;
  EXPECT_THAT(support(params, logits), ElementsAre(0, 1));
  params.top_p = 0.76F;
  EXPECT_THAT(support(params, logits), ElementsAre(0, 1, 2));
  params.top_p = 1;
  EXPECT_THAT(support(params, logits), ElementsAre(0, 1, 2, 3));
  params.top_p = 1e-30F;
  EXPECT_THAT(support(params, logits), ElementsAre(1));
}

TEST(Sampler, TopPIsOfWhatTopKLeft) {
  SamplingParams params;
  params.top_k = 2;
  params.top_p = 0.45F;
  EXPECT_THAT(support(params, {0.1F, 0, 0, 0}), ElementsAre(0)) << "0.275 of all, 0.525 of the two";
}

TEST(Sampler, MinPIsRelativeToTheHighest) {
  const Logits logits = {0, std::log(0.5F), std::log(0.2F), std::log(0.05F)};
  SamplingParams params;
  params.min_p = 0.4F;
  EXPECT_THAT(support(params, logits), ElementsAre(0, 1));
  params.min_p = 0.1F;
  EXPECT_THAT(support(params, logits), ElementsAre(0, 1, 2));
  params.min_p = 0.99F;
  EXPECT_THAT(support(params, logits), ElementsAre(0));
}

TEST(Sampler, KeptIdsAreRenormalised) {
  const Logits logits = {1.0F, 0.0F, 0.5F, -3.0F};
  SamplingParams params;
  params.top_k = 3;
  params.seed = 11;
  constexpr int64_t kDraws = 100000;
  const std::vector<int64_t> drawn = counts(params, logits, kDraws);
  EXPECT_EQ(drawn[3], 0);
  // 0.999 quantile with 2 degrees of freedom: 13.82.
  EXPECT_LT(chi_square({drawn.begin(), drawn.begin() + 3}, softmax({1.0F, 0.0F, 0.5F}, 1), kDraws),
            13.82);
}

TEST(Sampler, RepetitionPenaltyCountsPromptAndOutputOnce) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  EXPECT_THAT(processed(params, {4, -4, 4, -4, 4}, {0, 0, 1}, {0, 2, 2, 3}),
              ElementsAre(2, -8, 2, -8, 4));
}

TEST(Sampler, PresenceAndFrequencyPenaltiesCountOutputOnly) {
  SamplingParams params = greedy();
  params.presence_penalty = 0.5F;
  params.frequency_penalty = 0.25F;
  EXPECT_THAT(processed(params, {1, 1, 1}, {0, 0}, {1, 2, 2, 2}), ElementsAre(1, 0.25F, -0.25F));
  params.presence_penalty = -1;
  params.frequency_penalty = 0;
  EXPECT_THAT(processed(params, {1, 1, 1}, {0}, {2}), ElementsAre(1, 1, 2));
}

TEST(Sampler, BiasComesBeforeTheRepetitionPenalty) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2;
  params.logit_bias = {{0, 3.0F}, {1, -3.0F}};
  EXPECT_THAT(processed(params, {1, 1, 1}, {0, 1}, {}), ElementsAre(2, -4, 1));
}

TEST(Sampler, LogitBiasDecides) {
  SamplingParams params = greedy();
  params.logit_bias = {{2, 10.0F}};
  EXPECT_EQ(sample_once(params, {3, 1, 0}).id, 2);
  params.logit_bias = {{0, -100.0F}};
  EXPECT_EQ(sample_once(params, {3, 1, 0}).id, 1);
}

TEST(Sampler, SameSeedSameDrawsOtherSeedOthers) {
  const Logits logits(64, 0.0F);
  const auto draws = [&](uint64_t seed) {
    SamplingParams params;
    params.seed = seed;
    Sampler sampler(params, {});
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) {
      Logits copy = logits;
      ids.push_back(sampler.sample(copy).id);
    }
    return ids;
  };
  EXPECT_EQ(draws(1), draws(1));
  EXPECT_NE(draws(1), draws(2));
  EXPECT_NE(draws(0), draws(std::numeric_limits<uint64_t>::max()));
}

TEST(Sampler, LogprobsAreTheLogSoftmaxBeforeTemperature) {
  const Logits logits = {1, 3, 2, 3};
  SamplingParams params;
  params.temperature = 0.1F;
  params.top_k = 1;
  params.top_logprobs = 4;
  const Sampled sampled = sample_once(params, logits);
  const std::vector<double> p = softmax(logits, 1);
  EXPECT_EQ(sampled.id, 1);
  EXPECT_NEAR(sampled.logprob, std::log(p[1]), 1e-6);
  ASSERT_EQ(sampled.top_logprobs.size(), 4U);
  double sum = 0;
  std::vector<int32_t> order;
  for (const auto& [id, logprob] : sampled.top_logprobs) {
    order.push_back(id);
    EXPECT_NEAR(logprob, std::log(p[static_cast<size_t>(id)]), 1e-6);
    sum += std::exp(logprob);
  }
  EXPECT_THAT(order, ElementsAre(1, 3, 2, 0));
  EXPECT_NEAR(sum, 1, 1e-6);
}

TEST(Sampler, LogprobsIncludePenaltiesAndComeOnlyWhenAskedFor) {
  SamplingParams params = greedy();
  params.logit_bias = {{0, 2.0F}};
  params.top_logprobs = 0;
  const Sampled sampled = sample_once(params, {0, 1});
  EXPECT_EQ(sampled.id, 0);
  EXPECT_NEAR(sampled.logprob, std::log(softmax({2, 1}, 1)[0]), 1e-6);
  EXPECT_TRUE(sampled.top_logprobs.empty());
  params.top_logprobs = -1;
  EXPECT_EQ(sample_once(params, {0, 1}).logprob, 0);
  params.top_logprobs = 20;
  EXPECT_EQ(sample_once(params, {0, 1}).top_logprobs.size(), 2U) << "no more than the vocabulary";
}

// The draw as the header states it: everything sorted, then cut, then walked.
int32_t draw_by_sorting(const SamplingParams& params, const Logits& logits, double uniform) {
  std::vector<std::pair<float, int32_t>> order;
  for (size_t i = 0; i < logits.size(); ++i)
    order.emplace_back(-logits[i], static_cast<int32_t>(i));
  std::sort(order.begin(), order.end());
  if (params.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(params.top_k)));
  std::vector<double> mass;
  double total = 0;
  for (const auto& [negative, id] : order) {
    total += mass.emplace_back(
        std::exp((static_cast<double>(order[0].first) - negative) / params.temperature));
  }
  double kept = 0;
  size_t count = 0;
  while (count < mass.size() && mass[count] >= params.min_p &&
         (count == 0 || kept < params.top_p * total)) {
    kept += mass[count++];
  }
  double target = uniform * kept;
  for (size_t i = 0; i < count; ++i) {
    if ((target -= mass[i]) < 0) return order[i].second;
  }
  return order[count - 1].second;
}

// The uniform number of a draw, read off a sampler: over equal logits id i comes from [i, i + 1) /
// n.
double uniform_of(uint64_t seed) {
  constexpr size_t kParts = 1 << 16;
  SamplingParams params;
  params.seed = seed;
  Logits flat(kParts, 0.0F);
  return (static_cast<double>(Sampler(params, {}).sample(flat).id) + 0.5) / kParts;
}

TEST(Sampler, DrawsWhatSortingEverythingWouldDraw) {
  std::mt19937_64 random(5);
  Logits logits(5000);
  // Steps of 1/8: ties everywhere.
  for (float& logit : logits) logit = static_cast<float>(random() % 96) / 8;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const double uniform = uniform_of(seed);
    for (const float temperature : {0.3F, 1.0F, 5.0F}) {
      for (const float top_p : {0.5F, 0.95F, 1.0F}) {
        for (const auto& [top_k, min_p] :
             std::vector<std::pair<int32_t, float>>{{-1, 0.0F}, {700, 0.0F}, {-1, 0.2F}}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_p = top_p;
          params.top_k = top_k;
          params.min_p = min_p;
          params.seed = seed;
          const int32_t low = draw_by_sorting(params, logits, uniform - 0x1p-17);
          const int32_t high = draw_by_sorting(params, logits, uniform + 0x1p-17);
          const int32_t id = sample_once(params, logits).id;
          if (low == high) {
            EXPECT_EQ(id, low) << seed << " " << temperature << " " << top_p << " " << top_k;
          } else {
            EXPECT_LE(logits[static_cast<size_t>(id)], logits[static_cast<size_t>(low)]);
            EXPECT_GE(logits[static_cast<size_t>(id)], logits[static_cast<size_t>(high)]);
          }
        }
      }
    }
  }
}

TEST(Sampler, NeverChoosesNaNAndStaysDefinedWhereAllIs) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinite = std::numeric_limits<float>::infinity();
  for (const float temperature : {0.0F, 1.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_logprobs = 3;
    for (uint64_t seed = 0; seed < 100; ++seed) {
      params.seed = seed;
      EXPECT_EQ(sample_once(params, {nan, 3, nan, nan}).id, 1);
      EXPECT_EQ(sample_once(params, {nan, -infinite, 2, nan}).id, 2);
      EXPECT_EQ(sample_once(params, {0, infinite, infinite, nan}).id, 1);
    }
    EXPECT_EQ(sample_once(params, {nan, nan}).id, 0);
    EXPECT_EQ(sample_once(params, {-infinite, -infinite}).id, 0);
    // NaN everywhere between numbers: an order that is none would send a sort out of its bounds.
    Logits mixed(5000, nan);
    for (size_t i = 0; i < mixed.size(); i += 3) mixed[i] = static_cast<float>(i % 50);
    const Sampled sampled = sample_once(params, mixed);
    EXPECT_EQ(sampled.id % 3, 0);
    ASSERT_EQ(sampled.top_logprobs.size(), 3U);
    for (const auto& [id, logprob] : sampled.top_logprobs) EXPECT_EQ(id % 3, 0);
  }
}

TEST(Sampler, AllFiniteFindsOneBadLogitAnywhere) {
  Logits logits(1003, 1.0F);
  logits[7] = std::numeric_limits<float>::max();
  logits[8] = std::numeric_limits<float>::denorm_min();
  EXPECT_TRUE(all_finite(logits));
  EXPECT_TRUE(all_finite({}));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::infinity()}) {
    for (const size_t at : {size_t{0}, size_t{500}, logits.size() - 1}) {
      Logits copy = logits;
      copy[at] = bad;
      EXPECT_FALSE(all_finite(copy)) << bad << " at " << at;
    }
  }
}

TEST(SamplingParams, DefaultsAndLimitsAreValid) {
  EXPECT_TRUE(SamplingParams{}.validate(10));
  SamplingParams params;
  params.temperature = 100;
  params.top_k = 0;
  params.top_p = 1e-6F;
  params.min_p = 0.999F;
  params.presence_penalty = -2;
  params.frequency_penalty = 2;
  params.top_logprobs = 20;
  params.logit_bias = {{0, -100.0F}, {9, 100.0F}};
  EXPECT_TRUE(params.validate(10));
}

TEST(SamplingParams, RefusesEveryFieldOutOfRangeByName) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinite = std::numeric_limits<float>::infinity();
  const std::map<std::string, std::pair<float SamplingParams::*, std::vector<float>>> fields = {
      {"temperature", {&SamplingParams::temperature, {-0.1F, 100.5F, nan, infinite}}},
      {"top_p", {&SamplingParams::top_p, {0, -1, 1.01F, nan}}},
      {"min_p", {&SamplingParams::min_p, {-0.1F, 1, nan}}},
      {"repetition_penalty", {&SamplingParams::repetition_penalty, {0, -1, 101, infinite, nan}}},
      {"presence_penalty", {&SamplingParams::presence_penalty, {-2.1F, 2.1F, nan}}},
      {"frequency_penalty", {&SamplingParams::frequency_penalty, {-2.1F, 2.1F, nan}}}};
  for (const auto& [name, field] : fields) {
    for (const float value : field.second) {
      SamplingParams params;
      params.*field.first = value;
      const Result<void> valid = params.validate(10);
      ASSERT_FALSE(valid) << name << " " << value;
      EXPECT_EQ(valid.error().kind, ErrorKind::kUsage);
      EXPECT_THAT(valid.error().message, testing::StartsWith(name + " is "));
    }
  }
  const auto refused = [](const SamplingParams& params) {
    const Result<void> valid = params.validate(10);
    return valid ? std::string("accepted") : valid.error().message;
  };
  SamplingParams params;
  params.top_k = -2;
  EXPECT_THAT(refused(params), HasSubstr("top_k is -2"));
  params = {};
  params.top_logprobs = 21;
  EXPECT_THAT(refused(params), HasSubstr("top_logprobs is 21"));
  params.top_logprobs = -2;
  EXPECT_THAT(refused(params), HasSubstr("top_logprobs is -2"));
  params = {};
  params.logit_bias = {{10, 1.0F}};
  EXPECT_THAT(refused(params), HasSubstr("logit_bias names token 10"));
  params.logit_bias = {{-1, 1.0F}};
  EXPECT_THAT(refused(params), HasSubstr("logit_bias names token -1"));
  params.logit_bias = {{1, 101.0F}};
  EXPECT_THAT(refused(params), HasSubstr("logit_bias is 101"));
}

TEST(Sampler, OnlyAllowedIdsAreDrawnAndHaveLogprobs) {
  Logits logits(130);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7);
  std::vector<uint64_t> allowed = {0, uint64_t{1} << 63, 1};  // ids 127 and 128
  SamplingParams params;
  params.top_logprobs = 5;
  params.logit_bias = {{6, 100.0F}};
  std::set<int32_t> drawn;
  Sampler sampler(params, {});
  for (int i = 0; i < 200; ++i) {
    Logits copy = logits;
    const Sampled sampled = sampler.sample(copy, {}, allowed);
    drawn.insert(sampled.id);
    ASSERT_EQ(sampled.top_logprobs.size(), 2U);
    double sum = 0;
    for (const auto& [id, logprob] : sampled.top_logprobs) sum += std::exp(logprob);
    ASSERT_NEAR(sum, 1, 1e-5);
  }
  EXPECT_THAT(drawn, ElementsAre(127, 128));
}

}  // namespace
}  // namespace longshore::engine
