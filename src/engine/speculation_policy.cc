#include "engine/speculation_policy.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr double kMargin = 0.01;       // that drafting must promise
constexpr double kAllowance = 0.006;   // of all decoding time that trying may lose
constexpr double kPrior = 0.7;         // acceptance before anything is known
constexpr int64_t kMemory = 256;       // samples that an average of acceptance remembers
constexpr int64_t kCostMemory = 24;    // and one of seconds
constexpr int64_t kFirstPlain = 4;     // steps that teach what plain decoding costs
constexpr int64_t kRefreshPlain = 96;  // steps after which that is measured again
constexpr int64_t kRefreshDeep = 48;   // and the depth past the best
constexpr double kPriorStay = 128;     // tokens of a sequence before any has ended
constexpr int64_t kStayMemory = 32;    // sequences that its average remembers

}  // namespace

double expert_union(double tokens, double experts, double per_token, double overlap) {
  LS_CHECK(tokens >= 1 && experts >= per_token && overlap >= 0 && overlap <= 1);
  double distinct = per_token;
  const double fresh = per_token * (1 - overlap);
  // A fresh expert is one that none before had with probability 1 - distinct / experts.
  return experts - (experts - distinct) * std::pow(1 - fresh / experts, tokens - 1);
}

double overlap_of(double distinct, double tokens, double experts, double per_token) {
  LS_CHECK(tokens >= 2 && experts > per_token);
  const double left = std::clamp((experts - distinct) / (experts - per_token), 0.0, 1.0);
  const double fresh = experts * (1 - std::pow(left, 1 / (tokens - 1)));
  return std::clamp(1 - fresh / per_token, 0.0, 1.0);
}

double ExpertGrowth::factor(int64_t rows) const {
  const auto n = static_cast<double>(rows);
  if (experts == 0 || rows < 1) return n;
  return 1 + expert_part * (expert_union(n, experts, per_token, overlap) / per_token - 1);
}

void RowCosts::record(int64_t rows, double seconds) {
  Mean& mean = means_[rows];
  // A step that the machine was away for says nothing about rows.
  if (mean.count >= 3) seconds = std::min(seconds, 2 * mean.seconds);
  // The first times may have been slow ones.
  if (mean.count < 3 && seconds < mean.seconds / 2) mean.count = 0;
  ++mean.count;
  mean.seconds += (seconds - mean.seconds) / static_cast<double>(std::min(mean.count, kCostMemory));
}

bool RowCosts::knows(int64_t rows) const {
  const auto above = means_.lower_bound(rows - rows / 4);
  return above != means_.end() && above->first <= rows + rows / 4;
}

std::optional<double> RowCosts::at(int64_t rows, const ExpertGrowth& growth) const {
  if (means_.empty()) return std::nullopt;
  auto above = means_.lower_bound(rows);
  if (above != means_.end() && (above->first == rows || above == means_.begin()))
    return above->second.seconds;
  if (above == means_.end()) {
    --above;
    if (above == means_.begin()) {
      // One count alone: by the experts, and without them no growth.
      const double ratio =
          growth.experts == 0 ? 1 : growth.factor(rows) / growth.factor(above->first);
      return above->second.seconds * ratio;
    }
  }
  const auto below = std::prev(above);
  const double from = growth.factor(below->first);
  const double span = growth.factor(above->first) - from;
  // Past what all experts allow, more rows cost no more.
  if (span <= 1e-9) return above->second.seconds;
  const double slope = std::max(0.0, above->second.seconds - below->second.seconds) / span;
  return below->second.seconds + slope * (growth.factor(rows) - from);
}

SpeculationPolicy::SpeculationPolicy(int64_t max_steps)
    : max_steps_(max_steps), acceptance_(static_cast<size_t>(max_steps)), stay_(kPriorStay) {
  LS_CHECK(max_steps >= 0);
}

double SpeculationPolicy::acceptance(int64_t depth) const {
  const Acceptance& known = acceptance_[static_cast<size_t>(depth)];
  if (known.count > 0) return known.part;
  return depth == 0 ? kPrior : acceptance(depth - 1);
}

std::optional<double> SpeculationPolicy::rate(const SpeculationLoad& load, int64_t steps) const {
  const int64_t rows = load.prefill_rows + load.sequences * (1 + steps);
  const auto forward = forward_.at(rows, growth_);
  const auto draft = steps > 0 ? draft_.at(load.sequences) : 0.0;
  if (!forward || !draft) return std::nullopt;
  double tokens = 1;
  double all_right = 1;
  for (int64_t depth = 0; depth < steps; ++depth) tokens += all_right *= acceptance(depth);
  double seconds = *forward + static_cast<double>(steps) * *draft;
  if (steps > 0 && load.backlog > 0) {
    const double reading = reading_.at(load.backlog).value_or(0);
    seconds += reading * std::min(1.0, tokens / stay_);
  }
  return static_cast<double>(load.sequences) * tokens / seconds;
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
  if (best == 0) {
    const double reading = load.backlog > 0 ? reading_.at(load.backlog).value_or(0) : 0;
    return credit_ > second + reading ? 1 : 0;
  }
  if (best < max_steps_ && since_look_ >= kRefreshDeep && credit_ > second) {
    since_look_ = 0;
    return best + 1;
  }
  return best;
}

void SpeculationPolicy::record_end(int64_t tokens) {
  ended_ = std::min(ended_ + 1, kStayMemory);
  stay_ += (static_cast<double>(tokens) - stay_) / static_cast<double>(ended_);
  stay_ = std::max(stay_, 1.0);
}

void SpeculationPolicy::record_experts(int64_t rows, double distinct) {
  if (growth_.experts <= growth_.per_token || rows < 2 || distinct < growth_.per_token) return;
  const double overlap =
      overlap_of(distinct, static_cast<double>(rows), growth_.experts, growth_.per_token);
  growth_.overlap += (overlap - growth_.overlap) / static_cast<double>(kCostMemory);
}

void SpeculationPolicy::settle(const SpeculationStep& step) {
  const SpeculationLoad& load = step.load;
  const double spent = step.forward_seconds + step.draft_seconds - read_;
  credit_ += kAllowance * spent;
  invested_ += read_;
  const double each = static_cast<double>(step.tokens) / static_cast<double>(load.sequences);
  const double due = invested_ * std::min(1.0, each / stay_);
  invested_ -= due;
  credit_ -= due;
  const auto plain = forward_.at(load.prefill_rows + load.sequences, growth_);
  if (step.steps > 0 && plain) {
    // Seconds that the machine was away for are no loss of drafting's.
    credit_ += std::max(each * *plain - spent, -4 * *plain);
  }
  // It must reach what a look costs.
  const double look = load.backlog > 0 ? 2 * reading_.at(load.backlog).value_or(0) : 0;
  if (plain) credit_ = std::clamp(credit_, -8 * *plain - look, 8 * *plain + look);
}

// What reading a backlog takes is what its step takes longer than others.
void SpeculationPolicy::learn_draft(const SpeculationStep& step) {
  read_ = 0;
  const auto steps = static_cast<double>(step.steps);
  const auto known = draft_.at(step.load.sequences);
  if (step.load.backlog == 0) {
    draft_.record(step.load.sequences, step.draft_seconds / steps);
    return;
  }
  if (!known) {
    // The first of all: whatever it took, the device's first use among it, is paid once, and tells
    // nothing of the next.
    read_ = step.draft_seconds;
    invested_ -= read_;
    return;
  }
  // Guesses and reading together took less than guesses were thought to.
  if (step.draft_seconds < *known * steps)
    draft_.record(step.load.sequences, step.draft_seconds / steps);
  read_ = std::max(0.0, step.draft_seconds - *known * steps);
  reading_.record(step.load.backlog, read_);
}

void SpeculationPolicy::learn_acceptance(const SpeculationStep& step) {
  for (size_t depth = 0; depth < step.drafted.size() && depth < acceptance_.size(); ++depth) {
    if (step.drafted[depth] == 0) break;
    Acceptance& known = acceptance_[depth];
    const double part =
        static_cast<double>(step.accepted[depth]) / static_cast<double>(step.drafted[depth]);
    ++known.count;
    known.part += (part - known.part) / static_cast<double>(std::min(known.count, kMemory));
  }
}

void SpeculationPolicy::record(const SpeculationStep& step) {
  forward_.record(step.rows, step.forward_seconds);
  read_ = 0;
  if (step.steps == 0) {
    // The first ones buy the first trials.
    if (plain_steps_++ < kFirstPlain) credit_ += step.forward_seconds;
    since_plain_ = 0;
  } else {
    ++since_plain_;
    ++since_look_;
    learn_draft(step);
  }
  learn_acceptance(step);
  settle(step);
}

}  // namespace longshore::engine
