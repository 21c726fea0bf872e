// The choice of the number of drafts against simulated steps whose true costs are known.
#include "engine/speculation_policy.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace longshore::engine {
namespace {

struct World {
  double acceptance = 0;     // at every depth
  double row_seconds = 0;    // that a row adds to a pass of 1 s
  double draft_seconds = 0;  // of a draft step
  int64_t sequences = 1;
  double noise = 0;  // of every second, uniform to both sides
};

double tokens_of(const World& world, int64_t steps) {
  double sum = 1;
  for (int64_t d = 1; d <= steps; ++d) sum += std::pow(world.acceptance, static_cast<double>(d));
  return sum * static_cast<double>(world.sequences);
}

double true_rate(const World& world, int64_t steps) {
  const double rows = static_cast<double>(world.sequences * (1 + steps));
  return tokens_of(world, steps) /
         (1 + world.row_seconds * (rows - 1) + world.draft_seconds * static_cast<double>(steps));
}

// How much more seldom guesses of blind sequences are right.
constexpr double kBlind = 0.4;

// A step with so many guesses of each sequence, drawn right or wrong, without its seconds. Those of
// blind ones (all or none are) do not teach.
SpeculationStep guess(const World& world, const SpeculationLoad& load, int64_t steps,
                      std::mt19937& random) {
  std::uniform_real_distribution<double> unit(0, 1);
  SpeculationStep step{.load = load, .steps = steps, .rows = world.sequences * (1 + steps)};
  step.drafted.assign(static_cast<size_t>(steps), 0);
  step.accepted = step.drafted;
  step.tokens = world.sequences;
  const int64_t teaches = load.blind == 0 ? 1 : 0;
  const double acceptance = world.acceptance * (load.blind == 0 ? 1 : kBlind);
  for (int64_t b = 0; b < world.sequences; ++b) {
    for (size_t d = 0; d < static_cast<size_t>(steps); ++d) {
      step.drafted[d] += teaches;
      if (unit(random) >= acceptance) break;
      step.accepted[d] += teaches;
      ++step.tokens;
    }
  }
  return step;
}

// Tokens per second of `count` steps that the policy chooses.
double run(SpeculationPolicy& policy, const World& world, int64_t count, std::mt19937& random) {
  std::uniform_real_distribution<double> unit(0, 1);
  double seconds = 0;
  double tokens = 0;
  for (int64_t i = 0; i < count; ++i) {
    const SpeculationLoad load{world.sequences, 0};
    const int64_t steps = policy.choose(load);
    SpeculationStep step = guess(world, load, steps, random);
    const auto noisy = [&](double s) { return s * (1 + world.noise * (2 * unit(random) - 1)); };
    step.forward_seconds = noisy(1 + world.row_seconds * static_cast<double>(step.rows - 1));
    step.draft_seconds = noisy(world.draft_seconds * static_cast<double>(steps));
    policy.record(step);
    seconds += step.forward_seconds + step.draft_seconds;
    tokens += tokens_of(world, steps);  // what is expected: the luck of the draws is not judged
  }
  return tokens / seconds;
}

TEST(SpeculationPolicy, ComesWithinThreePerCentOfTheBestFixedDepth) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    std::mt19937 random(seed);
    for (const double acceptance : {0.3, 0.6, 0.9}) {
      for (const double row : {0.02, 0.2, 0.5, 0.9}) {
        for (const int64_t sequences : {1, 4}) {
          const World world{acceptance, row, 0.03, sequences, 0.05};
          SpeculationPolicy policy(4);
          run(policy, world, 1500, random);
          double best = 0;
          for (int64_t k = 0; k <= 4; ++k) best = std::max(best, true_rate(world, k));
          EXPECT_GE(run(policy, world, 3000, random), 0.97 * best)
              << "acceptance " << acceptance << ", a row costs " << row << ", " << sequences
              << " sequences";
        }
      }
    }
  }
}

// Sequences of `stay` tokens, one after another; the draft must read a prompt before its first
// guess of each. Tokens per second; plain decoding gives 1.
double run_sequences(SpeculationPolicy& policy, int64_t stay, double reading, int64_t count,
                     std::mt19937& random) {
  std::uniform_real_distribution<double> unit(0, 1);
  double seconds = 0;
  double tokens = 0;
  for (int64_t s = 0; s < count; ++s) {
    bool read = false;
    for (int64_t left = stay; left > 0;) {
      const SpeculationLoad load{1, 0, read ? 0 : 100};
      const int64_t steps = std::min(policy.choose(load), left - 1);
      SpeculationStep step{.load = load, .steps = steps, .rows = 1 + steps, .tokens = 1};
      step.drafted.assign(static_cast<size_t>(steps), 0);
      step.accepted = step.drafted;
      for (size_t d = 0; d < static_cast<size_t>(steps); ++d) {
        ++step.drafted[d];
        if (unit(random) >= 0.95) break;
        ++step.accepted[d];
        ++step.tokens;
      }
      step.forward_seconds = 1;
      step.draft_seconds = 0.1 * static_cast<double>(steps) + (steps > 0 && !read ? reading : 0);
      read = read || steps > 0;
      policy.record(step);
      seconds += step.forward_seconds + step.draft_seconds;
      tokens += static_cast<double>(step.tokens);
      left -= step.tokens;
    }
    policy.record_end(stay);
  }
  return tokens / seconds;
}

TEST(SpeculationPolicy, ReadsALongPromptForASequenceThatStays) {
  std::mt19937 random(5);
  SpeculationPolicy policy(3);
  run_sequences(policy, 100, 6, 40, random);
  EXPECT_GE(run_sequences(policy, 100, 6, 40, random), 2.1);  // 3 deep at once: 2.3
}

TEST(SpeculationPolicy, DoesNotReadItForAFewTokens) {
  std::mt19937 random(6);
  SpeculationPolicy policy(3);
  run_sequences(policy, 5, 6, 400, random);
  EXPECT_GE(run_sequences(policy, 5, 6, 400, random), 0.98);  // 3 deep: 0.65
}

// What the drafts of a group of sequences have read, as they do it in step.
struct Reading {
  int64_t unread = 1;  // rows that the last step left to each
  int64_t run = 0;     // that each has read without a gap
  [[nodiscard]] bool blind() const { return run + unread < SpeculationPolicy::kSight; }
  void advance(int64_t steps, int64_t tokens) {
    run = steps > 0 ? run + unread : 0;
    unread = steps > 0 ? tokens : 1;
  }
};

struct Start {
  bool window = false;    // the first step can read a prompt for the draft, which else is blind
  bool measured = false;  // the costs are known
};

// Seconds of a step, without noise.
double cost_of(const World& world, int64_t steps) {
  const double rows = static_cast<double>(world.sequences * (1 + steps) - 1);
  return 1 + world.row_seconds * rows + world.draft_seconds * static_cast<double>(steps);
}

SpeculationPolicy policy_of(const World& world, const Start& start) {
  MeasuredCosts costs;
  if (!start.measured) return SpeculationPolicy(3);
  costs.draft.resize(3);
  costs.forward.record(1, 1);
  for (int64_t steps = 0; steps <= 3; ++steps) {
    const double draft = world.draft_seconds * static_cast<double>(steps);
    costs.forward.record(world.sequences * (1 + steps), cost_of(world, steps) - draft);
    if (steps > 0) costs.draft[static_cast<size_t>(steps - 1)].record(world.sequences, draft);
  }
  return SpeculationPolicy(3, costs);
}

// Groups of `sequences` answers of `stay` tokens, one group after another, in a world whose seconds
// are a plain step's. What was spent over what plain decoding takes for the same tokens, less two
// steps and the first reading, and what the first drafts, which are made to learn their cost, take.
double lost(const World& world, const Start& start, int64_t stay, double reading, int64_t count,
            std::mt19937& random) {
  std::uniform_real_distribution<double> unit(0, 1);
  SpeculationPolicy policy = policy_of(world, start);
  const double plain = cost_of(world, 0);
  const double learning = start.measured ? reading : 2 * (cost_of(world, 1) + reading - plain);
  const int64_t first_unread = start.window ? 64 : 1;
  Reading drafts{first_unread};
  double spent = 0;
  double plainly = 0;
  double left = static_cast<double>(stay);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t backlog = drafts.unread == 64 ? 64 * world.sequences : 0;
    const SpeculationLoad load{world.sequences, 0, backlog, drafts.blind() ? world.sequences : 0};
    const int64_t steps = policy.choose(load);
    SpeculationStep step = guess(world, load, steps, random);
    const auto noisy = [&](double s) { return s * (1 + world.noise * (2 * unit(random) - 1)); };
    const double draft = world.draft_seconds * static_cast<double>(steps);
    step.forward_seconds = noisy(cost_of(world, steps) - draft);
    step.draft_seconds = noisy(draft) + (steps > 0 && backlog > 0 ? reading : 0);
    policy.record(step);
    drafts.advance(steps, step.tokens / world.sequences);
    spent += cost_of(world, steps) + step.draft_seconds - (steps > 0 ? noisy(draft) : 0);
    const double each = static_cast<double>(step.tokens) / static_cast<double>(world.sequences);
    plainly += each * plain;
    if ((left -= each) > 0) continue;
    policy.record_end(stay);
    left = static_cast<double>(stay);
    drafts = {first_unread};
  }
  return (spent - 2 * plain - learning) / plainly - 1;
}

TEST(SpeculationPolicy, NeverLosesMoreThanAHundredAndAHalfInAnyWorld) {
  std::mt19937 random(8);
  const auto expect = [&](const World& world, const Start& start) {
    for (const int64_t stay : {5, 30, 100000}) {
      for (const int64_t steps : {200, 3000}) {
        EXPECT_LE(lost(world, start, stay, 0.7, steps, random), 0.015)
            << "acceptance " << world.acceptance << ", a row costs " << world.row_seconds
            << ", a draft " << world.draft_seconds << ", " << world.sequences << " sequences of "
            << stay << " tokens, " << steps << " steps, a window " << start.window << ", measured "
            << start.measured;
      }
    }
  };
  for (const double acceptance : {0.0, 0.1, 0.3, 0.5, 0.7, 0.9}) {
    for (const double row : {0.005, 0.05, 0.3}) {
      for (const double draft : {0.1, 0.3, 0.8}) {
        for (const int64_t sequences : {1, 4, 16}) {
          for (const Start& start : {Start{}, Start{true, false}, Start{true, true}})
            expect({acceptance, row, draft, sequences, 0.1}, start);
        }
      }
    }
  }
}

// As in a batch of one whose answer began before: it sees after kSight rows without a gap. All of
// it is paid for before it begins, not before each of its steps; and as what was known says that
// nothing pays, looks go on while they are right.
TEST(SpeculationPolicy, ALookOfTheBlindGoesOnUntilTheySee) {
  std::mt19937 random(10);
  const World good{0.95, 0.05, 0.45, 1, 0};
  SpeculationPolicy policy(3);
  run(policy, {0, 0.05, 0.45, 1, 0}, 300, random);
  ASSERT_EQ(policy.acceptance(0), 0);
  const double price = static_cast<double>(SpeculationPolicy::kSight) * (0.05 + 0.45);
  Reading drafts;
  int64_t drafted = 0;
  int64_t refused = 0;
  double least = price;
  for (int i = 0; i < 4000; ++i) {
    const double credit = policy.credit();
    const SpeculationLoad load{1, 0, 0, drafts.blind() ? 1 : 0};
    const int64_t steps = policy.choose(load);
    if (policy.acceptance(0) == 0 && credit < price - 0.01 && drafts.run == 0) {
      EXPECT_EQ(steps, 0) << "what cannot be paid for as a whole is not begun";
      ++refused;
    }
    if (policy.acceptance(0) == 0 && steps > 0) least = std::min(least, credit);
    SpeculationStep step = guess(good, load, steps, random);
    step.forward_seconds = cost_of(good, steps) - 0.45 * static_cast<double>(steps);
    step.draft_seconds = 0.45 * static_cast<double>(steps);
    policy.record(step);
    drafts.advance(steps, step.tokens);
    if (i >= 3000 && steps > 0) ++drafted;
  }
  EXPECT_GT(refused, 50);
  EXPECT_LT(least, price) << "a step of a look that has begun";
  EXPECT_GE(policy.acceptance(0), 0.9);
  EXPECT_GE(drafted, 950);
}

// Guesses that begin in the middle of an answer must not spend what the next prompt is read with.
TEST(SpeculationPolicy, DraftsThatCostMuchComeToPayAllTheSame) {
  std::mt19937 random(12);
  for (int life = 0; life < 12; ++life) {
    for (const Start& start : {Start{true, false}, Start{true, true}})
      EXPECT_LE(lost({0.97, 0.05, 0.5, 1, 0.1}, start, 60, 0.7, 3000, random), -0.15)
          << life << ", measured " << start.measured;
  }
}

// Answers that are too short for that, one after another.
TEST(SpeculationPolicy, TheBlindWhoNeverSeeDraftSeldom) {
  SpeculationPolicy policy = policy_of({.row_seconds = 0.05, .draft_seconds = 0.1}, {true, true});
  int64_t drafted = 0;
  for (int i = 0; i < 4000; ++i) {
    const int64_t steps = policy.choose({1, 0, 0, 1});
    EXPECT_LE(steps, 1);
    drafted += steps;
    policy.record({.load = {1, 0, 0, 1},
                   .steps = steps,
                   .rows = 1 + steps,
                   .forward_seconds = 1 + 0.05 * static_cast<double>(steps),
                   .draft_seconds = 0.1 * static_cast<double>(steps),
                   .tokens = 1,
                   .drafted = std::vector<int64_t>(static_cast<size_t>(steps), 0),
                   .accepted = std::vector<int64_t>(static_cast<size_t>(steps), 0)});
  }
  EXPECT_GE(drafted, 8);
  EXPECT_LE(drafted, 120);
}

TEST(SpeculationPolicy, GuessesOfTheBlindAreChargedAndTeachNothing) {
  SpeculationPolicy policy = policy_of({.row_seconds = 0.05, .draft_seconds = 0.1}, {true, true});
  ASSERT_GT(policy.choose({1, 0, 0, 1}), 0);
  const double before = policy.credit();
  const double acceptance = policy.acceptance(0);
  for (int i = 0; i < 5; ++i) {
    ASSERT_GT(policy.choose({1, 0, 0, 1}), 0);
    policy.record({.load = {1, 0, 0, 1},
                   .steps = 1,
                   .rows = 2,
                   .forward_seconds = 1.05,
                   .draft_seconds = 0.1,
                   .tokens = 1,
                   .drafted = {0},
                   .accepted = {0}});
  }
  EXPECT_EQ(policy.acceptance(0), acceptance);
  EXPECT_LT(policy.credit(), before - 0.5);
}

TEST(SpeculationPolicy, LooksBecomeRareWhileTheyFail) {
  std::mt19937 random(9);
  SpeculationPolicy policy(3);
  const World world{0, 0.05, 0.1, 1, 0};
  run(policy, world, 2000, random);
  int64_t looks = 0;
  for (int i = 0; i < 4000; ++i) {
    const int64_t steps = policy.choose({1, 0});
    looks += steps;
    policy.record({.load = {1, 0},
                   .steps = steps,
                   .rows = 1 + steps,
                   .forward_seconds = 1,
                   .draft_seconds = 0.1 * static_cast<double>(steps),
                   .tokens = 1,
                   .drafted = std::vector<int64_t>(static_cast<size_t>(steps), 1),
                   .accepted = std::vector<int64_t>(static_cast<size_t>(steps), 0)});
  }
  EXPECT_GE(looks, 4);
  EXPECT_LE(looks, 12);
}

// What an interrupted step has guessed is checked by the next, which has drafted nothing itself.
TEST(SpeculationPolicy, GuessesOfAnEarlierStepTeachNoCost) {
  SpeculationPolicy policy(2, {.forward = {}, .draft = std::vector<RowCosts>(2)});
  const auto record = [&](int64_t steps, double seconds, int64_t drafted) {
    policy.record({.load = {1, 0},
                   .steps = steps,
                   .rows = 1 + drafted,
                   .forward_seconds = 1,
                   .draft_seconds = seconds,
                   .tokens = 1,
                   .drafted = std::vector<int64_t>(static_cast<size_t>(drafted), 1),
                   .accepted = std::vector<int64_t>(static_cast<size_t>(drafted), 1)});
  };
  record(0, 0, 0);
  record(1, 0.5, 1);
  const double before = *policy.rate({1, 0}, 1) / (1 + policy.acceptance(0));
  record(0, 0, 1);
  EXPECT_DOUBLE_EQ(*policy.rate({1, 0}, 1) / (1 + policy.acceptance(0)), before);
}

// A reading that came with the first draft would seem part of its cost, and too much to try again.
TEST(SpeculationPolicy, TheFirstDraftsReadNothing) {
  SpeculationPolicy policy(2);
  for (int i = 0; i < 10; ++i)
    policy.record({.load = {1, 0}, .steps = 0, .rows = 1, .forward_seconds = 1, .tokens = 1});
  EXPECT_EQ(policy.choose({1, 0, 64}), 0);
  EXPECT_EQ(policy.choose({1, 0, 0}), 1);
}

// With seconds measured before, the very first step may draft as deep as pays: a prompt's hidden
// states are there for it alone.
TEST(SpeculationPolicy, WhatWasMeasuredAtTheStartNeedsNoTrial) {
  MeasuredCosts measured;
  for (int64_t rows = 1; rows <= 4; ++rows) measured.forward.record(rows, 1);
  measured.draft.resize(3);
  for (size_t depth = 0; depth < 3; ++depth)
    measured.draft[depth].record(1, 0.1 * static_cast<double>(depth + 1));
  SpeculationPolicy policy(3, measured);
  EXPECT_EQ(policy.choose({1, 0, 64}), 3);
  EXPECT_DOUBLE_EQ(policy.credit(), 2);
}

// Everything is charged against plain decoding's seconds, which drafting keeps from being measured.
TEST(SpeculationPolicy, OneSlowPlainStepMakesNoDraftsSeemCheap) {
  const World world{0.3, 0.05, 0.5, 16, 0.05};
  for (const double slow : {3.0, 10.0, 100.0}) {
    std::mt19937 random(5);
    MeasuredCosts measured;
    for (const int64_t rows : {16, 32, 16, 32, 16, 32})
      measured.forward.record(rows, 1 + world.row_seconds * static_cast<double>(rows - 1));
    measured.draft.resize(1);
    measured.draft[0].record(16, world.draft_seconds);
    SpeculationPolicy policy(1, measured);
    policy.record({.load = {16}, .rows = 16, .forward_seconds = slow, .tokens = 16});
    EXPECT_GE(run(policy, world, 400, random), 0.98 * true_rate(world, 0)) << slow;
  }
}

TEST(SpeculationPolicy, WorthlessDraftsCostNextToNothing) {
  std::mt19937 random(2);
  for (const double row : {0.05, 0.5, 1.0}) {
    const World world{0, row, 0.3, 1, 0.1};
    SpeculationPolicy policy(3);
    EXPECT_GE(run(policy, world, 2000, random), 0.985) << row;  // plain: 1
  }
}

TEST(SpeculationPolicy, TurnsItselfOnAgainWhenDraftsBecomeRight) {
  std::mt19937 random(3);
  SpeculationPolicy policy(3);
  run(policy, {0, 0.05, 0.05, 1, 0.05}, 2000, random);
  const World good{0.95, 0.05, 0.05, 1, 0.05};
  run(policy, good, 4000, random);
  EXPECT_GE(run(policy, good, 1000, random), 0.95 * true_rate(good, 3));
}

TEST(SpeculationPolicy, NothingIsDraftedBeforePlainDecodingIsMeasured) {
  SpeculationPolicy policy(3);
  EXPECT_EQ(policy.choose({1, 0}), 0);
}

TEST(SpeculationPolicy, ZeroStepsAreNeverDrafted) {
  std::mt19937 random(4);
  SpeculationPolicy policy(0);
  EXPECT_NEAR(run(policy, {1, 0, 0, 1, 0}, 100, random), 1, 1e-9);
}

TEST(ExpertUnion, LiesBetweenOneTokensExpertsAndAll) {
  EXPECT_DOUBLE_EQ(expert_union(1, 256, 8, 0.3), 8);
  EXPECT_DOUBLE_EQ(expert_union(5, 256, 8, 1), 8);
  EXPECT_NEAR(expert_union(2, 256, 8, 0), 8 + 8 * (1 - 8.0 / 256), 1e-9);
  EXPECT_LT(expert_union(4, 256, 8, 0.6), expert_union(4, 256, 8, 0.3));
  EXPECT_NEAR(expert_union(100000, 256, 8, 0), 256, 1e-6);
}

TEST(ExpertUnion, TellsTheOverlap) {
  for (const double overlap : {0.0, 0.3, 0.6, 1.0}) {
    const double distinct = expert_union(4, 256, 8, overlap);
    EXPECT_NEAR(overlap_of(distinct, 4, 256, 8), overlap, 1e-9);
  }
  EXPECT_EQ(overlap_of(40, 4, 256, 8), 0);  // more than chance
}

TEST(SpeculationPolicy, LearnsTheOverlapOfNeighbours) {
  SpeculationPolicy policy(3);
  policy.set_growth({.experts = 256, .per_token = 8, .expert_part = 0.8});
  policy.record_experts(1, 8);  // one row has no neighbour
  EXPECT_EQ(policy.growth().overlap, 0);
  for (int i = 0; i < 400; ++i) policy.record_experts(4, expert_union(4, 256, 8, 0.6));
  EXPECT_NEAR(policy.growth().overlap, 0.6, 1e-3);
}

TEST(RowCosts, GrowWithTheExperts) {
  const ExpertGrowth growth{.experts = 256, .per_token = 8, .overlap = 0.3, .expert_part = 0.5};
  RowCosts costs;
  costs.record(1, 2);
  EXPECT_DOUBLE_EQ(*costs.at(3, growth), 2 * growth.factor(3));
  costs.record(2, 2.5);
  const double slope = 0.5 / (growth.factor(2) - 1);
  EXPECT_DOUBLE_EQ(*costs.at(4, growth), 2 + slope * (growth.factor(4) - 1));
}

TEST(RowCosts, AreStraightBetweenWhatWasMeasured) {
  RowCosts costs;
  EXPECT_FALSE(costs.at(3));
  costs.record(1, 1);
  EXPECT_EQ(costs.at(9), 1);
  costs.record(5, 2);
  EXPECT_DOUBLE_EQ(*costs.at(3), 1.5);
  EXPECT_DOUBLE_EQ(*costs.at(9), 3);
  EXPECT_TRUE(costs.knows(5));
  EXPECT_FALSE(costs.knows(9));
}

TEST(RowCosts, AreNotThrownByAStepThatTheMachineWasAwayFor) {
  RowCosts costs;
  for (int i = 0; i < 3; ++i) costs.record(4, 1);
  costs.record(4, 50);
  EXPECT_LE(*costs.at(4), 1.25);
  costs.record(2, 50);
  costs.record(2, 1);
  EXPECT_DOUBLE_EQ(*costs.at(2), 1) << "the first times may have been slow ones";
}

}  // namespace
}  // namespace longshore::engine
