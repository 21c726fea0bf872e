#include "engine/speculation_policy.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr double kMargin = 0.01;       // that drafting must promise
constexpr double kAllowance = 0.004;   // of all decoding time that trying may lose
constexpr double kPrior = 0.7;         // acceptance before anything is known
constexpr int64_t kMemory = 128;       // samples that an average of acceptance remembers
constexpr int64_t kCostMemory = 24;    // and one of seconds
constexpr int64_t kFirstPlain = 4;     // steps that teach what plain decoding costs
constexpr int64_t kRefreshPlain = 96;  // steps after which that is measured again
constexpr int64_t kRefreshDeep = 32;   // and the depths that were not worth their while

}  // namespace

double expert_union(double tokens, double experts, double per_token, double overlap) {
  LS_CHECK(tokens >= 1 && experts >= per_token && overlap >= 0 && overlap <= 1);
  double distinct = per_token;
  const double fresh = per_token * (1 - overlap);
  // A fresh expert is one that none before had with probability 1 - distinct / experts.
  return experts - (experts - distinct) * std::pow(1 - fresh / experts, tokens - 1);
}

void RowCosts::record(int64_t rows, double seconds) {
  Mean& mean = means_[rows];
  // A step that the machine was away for says nothing about rows.
  if (mean.count >= 3) seconds = std::min(seconds, 2 * mean.seconds);
  ++mean.count;
  mean.seconds += (seconds - mean.seconds) / static_cast<double>(std::min(mean.count, kCostMemory));
}

bool RowCosts::knows(int64_t rows) const {
  const auto above = means_.lower_bound(rows - rows / 4);
  return above != means_.end() && above->first <= rows + rows / 4;
}

std::optional<double> RowCosts::at(int64_t rows) const {
  if (means_.empty()) return std::nullopt;
  auto above = means_.lower_bound(rows);
  if (above != means_.end() && (above->first == rows || above == means_.begin()))
    return above->second.seconds;
  if (above == means_.end()) {
    if (means_.size() == 1) return means_.begin()->second.seconds;
    --above;
  }
  const auto below = std::prev(above);
  const double slope = std::max(0.0, above->second.seconds - below->second.seconds) /
                       static_cast<double>(above->first - below->first);
  return below->second.seconds + slope * static_cast<double>(rows - below->first);
}

SpeculationPolicy::SpeculationPolicy(int64_t max_steps)
    : max_steps_(max_steps), acceptance_(static_cast<size_t>(max_steps)) {
  LS_CHECK(max_steps >= 0);
}

double SpeculationPolicy::acceptance(int64_t depth) const {
  const Acceptance& known = acceptance_[static_cast<size_t>(depth)];
  if (known.count > 0) return known.part;
  return depth == 0 ? kPrior : acceptance(depth - 1);
}

std::optional<double> SpeculationPolicy::forward_seconds(int64_t rows) const {
  const auto known = forward_.at(rows);
  if (!known || forward_.knows(rows) || growth_.experts == 0) return known;
  // From the count that is known, by the experts that more rows bring.
  const auto one = forward_.at(1);
  const double factor =
      expert_union(static_cast<double>(rows), growth_.experts, growth_.per_token, growth_.overlap) /
      growth_.per_token;
  return std::max(*known, *one * (1 + growth_.expert_part * (factor - 1)));
}

std::optional<double> SpeculationPolicy::rate(const SpeculationLoad& load, int64_t steps) const {
  const int64_t rows = load.prefill_rows + load.sequences * (1 + steps);
  const auto forward = forward_seconds(rows);
  const auto draft = steps > 0 ? draft_.at(load.sequences) : 0.0;
  if (!forward || !draft) return std::nullopt;
  double tokens = 1;
  double all_right = 1;
  for (int64_t depth = 0; depth < steps; ++depth) tokens += all_right *= acceptance(depth);
  return static_cast<double>(load.sequences) * tokens /
         (*forward + static_cast<double>(steps) * *draft);
}

int64_t SpeculationPolicy::choose(const SpeculationLoad& load) {
  LS_CHECK(load.sequences >= 1);
  const auto plain = rate(load, 0);
  if (max_steps_ == 0 || !plain || plain_steps_ < kFirstPlain) return 0;
  if (!forward_.knows(load.prefill_rows + load.sequences)) return 0;
  if (credit_ <= 0 || since_plain_ >= kRefreshPlain) return 0;
  int64_t best = 0;
  double highest = *plain * (1 + kMargin);
  for (int64_t steps = 1; steps <= max_steps_; ++steps) {
    const auto promised = rate(load, steps);
    if (!promised) return steps;  // the draft's cost is not known: try
    if (*promised <= highest) continue;
    highest = *promised;
    best = steps;
  }
  // A look at what does not seem to pay: the ledger says how often. Deeper than the best, now and
  // then.
  const double second = static_cast<double>(load.sequences) / *plain;
  if (best == 0) return credit_ > second ? 1 : 0;
  if (best < max_steps_ && since_deepest_ >= kRefreshDeep && credit_ > second) return best + 1;
  return best;
}

void SpeculationPolicy::settle(const SpeculationStep& step) {
  const SpeculationLoad& load = step.load;
  const double spent = step.forward_seconds + step.draft_seconds;
  credit_ += kAllowance * spent;
  const auto plain = forward_.at(load.prefill_rows + load.sequences);
  if (step.steps > 0 && plain) {
    const double worth =
        static_cast<double>(step.tokens) * *plain / static_cast<double>(load.sequences);
    // Seconds that the machine was away for are no loss of drafting's.
    credit_ += std::max(worth - spent, -4 * *plain);
  }
  if (plain) credit_ = std::clamp(credit_, -8 * *plain, 8 * *plain);
}

void SpeculationPolicy::record(const SpeculationStep& step) {
  forward_.record(step.rows, step.forward_seconds);
  if (step.steps == 0) {
    // The first ones buy the first trials.
    if (plain_steps_++ < kFirstPlain) credit_ += step.forward_seconds;
    since_plain_ = 0;
  } else {
    ++since_plain_;
    if (!step.caught_up)
      draft_.record(step.load.sequences, step.draft_seconds / static_cast<double>(step.steps));
    else if (!draft_.at(step.load.sequences))
      draft_.record(step.load.sequences, step.draft_seconds / static_cast<double>(step.steps));
  }
  since_deepest_ = step.steps == max_steps_ ? 0 : since_deepest_ + (step.steps > 0 ? 1 : 0);
  for (size_t depth = 0; depth < step.drafted.size() && depth < acceptance_.size(); ++depth) {
    if (step.drafted[depth] == 0) break;
    Acceptance& known = acceptance_[depth];
    const double part =
        static_cast<double>(step.accepted[depth]) / static_cast<double>(step.drafted[depth]);
    ++known.count;
    known.part += (part - known.part) / static_cast<double>(std::min(known.count, kMemory));
  }
  settle(step);
}

}  // namespace longshore::engine
