#include "engine/speculation_policy.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace longshore::engine {
namespace {

constexpr double kMargin = 0.015;       // that drafting must promise
constexpr double kAllowance = 0.005;    // of all decoding time that trying may lose
constexpr double kFirstCredit = 2;      // plain steps that it may lose beside
constexpr double kMostCredit = 8;       // plain steps, of what it has gained
constexpr double kPrior = 0.7;          // acceptance before anything is known
constexpr int64_t kMemory = 512;        // guesses that an average of acceptance remembers
constexpr int64_t kLookMemory = 64;     // and one that is looked at again after a while
constexpr int64_t kCostMemory = 24;     // and one of seconds
constexpr int64_t kFirstPlain = 8;      // steps that teach what plain decoding costs
constexpr int64_t kFirstDrafts = 2;     // and drafts
constexpr int64_t kRefreshPlain = 256;  // steps after which that is measured again
constexpr int64_t kFirstWait = 16;      // steps between two looks
constexpr int64_t kLongestWait = 512;   // and at most
constexpr int64_t kLongestDeeper = 96;  // of looks at one draft more than seems best
constexpr double kPriorStay = 128;      // tokens of a sequence before any has ended
constexpr int64_t kStayMemory = 32;     // sequences that its average remembers

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

SpeculationPolicy::SpeculationPolicy(int64_t max_steps, const MeasuredCosts& measured)
    : max_steps_(max_steps),
      acceptance_(static_cast<size_t>(max_steps)),
      forward_(measured.forward),
      draft_(measured.draft),
      first_drafts_(measured.draft.empty() ? kFirstDrafts : 0),
      stay_(kPriorStay),
      looks_{kFirstWait, 0},
      deeper_{kFirstWait, 0} {
  LS_CHECK(max_steps >= 0);
  draft_.resize(static_cast<size_t>(max_steps));
  if (const auto plain = forward_.at(1)) give_first_credit(*plain);
}

void SpeculationPolicy::give_first_credit(double plain_seconds) {
  first_credit_ = kFirstCredit * plain_seconds;
  credit_ += first_credit_;
}

double SpeculationPolicy::acceptance(int64_t depth) const {
  const Acceptance& known = acceptance_[static_cast<size_t>(depth)];
  if (known.count > 0) return known.part;
  return depth == 0 ? kPrior : acceptance(depth - 1);
}

// Of a depth that was never measured: in proportion to the nearest that was.
std::optional<double> SpeculationPolicy::draft_cost(int64_t sequences, int64_t steps) const {
  if (steps == 0) return 0;
  const auto of = [&](int64_t depth) -> std::optional<double> {
    if (depth < 1 || depth > max_steps_) return std::nullopt;
    const auto seconds = draft_[static_cast<size_t>(depth - 1)].at(sequences);
    if (!seconds) return std::nullopt;
    return *seconds * static_cast<double>(steps) / static_cast<double>(depth);
  };
  for (int64_t away = 0; away < max_steps_; ++away) {
    if (const auto below = of(steps - away)) return below;
    if (const auto above = of(steps + away)) return above;
  }
  return std::nullopt;
}

double SpeculationPolicy::reading_cost(const SpeculationLoad& load) const {
  return load.backlog > 0 ? reading_.at(load.backlog).value_or(0) : 0;
}

std::optional<double> SpeculationPolicy::cost(const SpeculationLoad& load, int64_t steps) const {
  const auto forward = forward_.at(load.prefill_rows + load.sequences * (1 + steps), growth_);
  if (!forward) return std::nullopt;
  const auto draft = draft_cost(load.sequences, steps);
  if (!draft) return std::nullopt;
  return *forward + *draft;
}

std::optional<double> SpeculationPolicy::rate(const SpeculationLoad& load, int64_t steps) const {
  const auto known = cost(load, steps);
  if (!known) return std::nullopt;
  double tokens = 1;
  double all_right = 1;
  for (int64_t depth = 0; depth < steps; ++depth) tokens += all_right *= acceptance(depth);
  double seconds = *known;
  if (steps > 0) seconds += reading_cost(load) * std::min(1.0, tokens / stay_);
  return static_cast<double>(load.sequences) * tokens / seconds;
}

double SpeculationPolicy::risk(const SpeculationLoad& load, int64_t steps) const {
  return *cost(load, steps) + reading_cost(load) - *cost(load, 0);
}

int64_t SpeculationPolicy::best(const SpeculationLoad& load) const {
  int64_t best = 0;
  double highest = *rate(load, 0) * (1 + kMargin);
  for (int64_t steps = 1; steps <= max_steps_; ++steps) {
    const double promised = *rate(load, steps);
    if (promised <= highest) continue;
    highest = promised;
    best = steps;
  }
  return best;
}

bool SpeculationPolicy::pays_at(const SpeculationLoad& load, double acceptance) const {
  const double tokens = 1 + acceptance;
  const double reading = reading_cost(load) * std::min(1.0, tokens / stay_);
  return *cost(load, 1) + reading < tokens * *cost(load, 0);
}

// Two standard errors above what was measured.
bool SpeculationPolicy::may_pay(const SpeculationLoad& load) const {
  const auto count = static_cast<double>(std::min(acceptance_[0].count, kLookMemory));
  const double part = (acceptance(0) * count + 0.5) / (count + 1);
  return pays_at(load, std::min(1.0, part + 2 * std::sqrt(part * (1 - part) / (count + 1))));
}

// Now and then, as long as the ledger has more than that costs.
int64_t SpeculationPolicy::look_deeper(const SpeculationLoad& load, int64_t steps) {
  if (steps != deeper_than_) deeper_ = {kFirstWait, 0};
  deeper_than_ = steps;
  if (steps == max_steps_ || deeper_.since < deeper_.wait) return steps;
  if (risk(load, steps + 1) > credit_) return steps;
  deeper_ = {std::min(2 * deeper_.wait, kLongestDeeper), 0};
  Acceptance& known = acceptance_[static_cast<size_t>(steps)];
  known.count = std::min(known.count, kLookMemory);
  return steps + 1;
}

// One guess for each, deeper ones are hardly ever right, until they see. Cut short it would have
// been for nothing: it begins with credit for all of it, or with half of what there was at first,
// as some of the guesses will be right. Where nothing pays it is a look, which leaves time for a
// sequence to come that need not be blind, and is paid for as a whole.
int64_t SpeculationPolicy::choose_blind(const SpeculationLoad& load) {
  if (blind_.since < blind_.wait) return 0;
  const bool pays = best(load) > 0;
  if (!pays && (looks_.since < 2 * looks_.wait || !pays_at(load, 1))) return 0;
  const double one = risk(load, 1);
  const double all = one * kSight;
  const double begin = pays ? std::min(all, std::max(one, first_credit_ / 2)) : all;
  if ((blind_goes_on_ ? one : begin) > credit_) return 0;
  looking_ = !pays;
  return 1;
}

int64_t SpeculationPolicy::choose(const SpeculationLoad& load) {
  LS_CHECK(load.sequences >= 1 && load.blind <= load.sequences);
  looking_ = false;
  if (max_steps_ == 0 || !cost(load, 0) || since_plain_ >= kRefreshPlain) return 0;
  if (!forward_.knows(load.prefill_rows + load.sequences)) return 0;
  // The very first drafts tell what drafts cost, the second without what comes once. What is read
  // beside would seem part of it: a step without is waited for.
  if (first_drafts_ > 0)
    return plain_steps_ >= (load.backlog == 0 ? kFirstPlain : 8 * kFirstPlain) ? 1 : 0;
  if (load.blind == load.sequences) return choose_blind(load);
  int64_t steps = best(load);
  if (steps > 0) {
    steps = look_deeper(load, steps);
    while (steps > 0 && risk(load, steps) > credit_) --steps;
    return steps;
  }
  looking_ = looks_.since >= looks_.wait && pays_at(load, 1) && risk(load, 1) <= credit_;
  if (!looking_) return 0;
  acceptance_[0].count = std::min(acceptance_[0].count, kLookMemory);
  return 1;
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

// By what such steps take on average: a step that the machine was away for is no loss of
// drafting's.
void SpeculationPolicy::settle(const SpeculationStep& step) {
  const SpeculationLoad& load = step.load;
  const double plain = *forward_.at(load.prefill_rows + load.sequences, growth_);
  double spent = *forward_.at(step.rows, growth_);
  if (step.steps > 0)
    spent += draft_cost(load.sequences, step.steps).value_or(0) + reading_cost(load);
  credit_ += kAllowance * spent;
  const double each = static_cast<double>(step.tokens) / static_cast<double>(load.sequences);
  if (step.rows > load.prefill_rows + load.sequences || step.steps > 0)
    credit_ -= spent - each * plain;
  credit_ = std::min(credit_, kMostCredit * plain + reading_cost(load));
}

// What reading a backlog takes is what its draft takes longer than others.
void SpeculationPolicy::learn_draft(const SpeculationStep& step) {
  first_drafts_ = std::max<int64_t>(first_drafts_ - 1, 0);
  RowCosts& costs = draft_[static_cast<size_t>(std::min(step.steps, max_steps_) - 1)];
  const auto known = draft_cost(step.load.sequences, step.steps);
  if (step.load.backlog == 0 || !known || step.draft_seconds < *known) {
    costs.record(step.load.sequences, step.draft_seconds);
    return;
  }
  reading_.record(step.load.backlog, step.draft_seconds - *known);
}

void SpeculationPolicy::learn_acceptance(const SpeculationStep& step) {
  for (size_t depth = 0; depth < step.drafted.size() && depth < acceptance_.size(); ++depth) {
    const int64_t drafted = step.drafted[depth];
    if (drafted == 0) break;
    Acceptance& known = acceptance_[depth];
    known.count += drafted;
    const double wrong_by =
        static_cast<double>(step.accepted[depth]) - static_cast<double>(drafted) * known.part;
    const int64_t memory = std::min(known.count, std::max(kMemory, drafted));
    known.part = std::clamp(known.part + wrong_by / static_cast<double>(memory), 0.0, 1.0);
  }
  if (step.drafted.empty() || step.drafted[0] == 0) return;
  blind_steps_ = 0;
  blind_ = {};
  if (!looking_) return;
  // A look that was right, and one that leaves hope, is soon followed by another; at once where
  // sight was paid for, which a step without guesses would lose.
  const bool right = 2 * step.accepted[0] > step.drafted[0];
  const bool soon = right || may_pay(step.load);
  looks_ = {soon ? kFirstWait : std::min(2 * looks_.wait, kLongestWait),
            right && sight_was_paid_ ? 2 * kFirstWait : 0};
}

void SpeculationPolicy::count_blind(const SpeculationStep& step) {
  if (step.steps == 0) sight_was_paid_ = false;
  blind_goes_on_ = step.steps > 0 && step.load.blind == step.load.sequences;
  if (!blind_goes_on_) return;
  sight_was_paid_ = true;
  if (++blind_steps_ < kSight) return;
  // They do not come to see: answers are too short, or interrupted too often.
  blind_steps_ = 0;
  blind_ = {std::clamp(2 * blind_.wait, kFirstWait, kLongestWait), 0};
}

void SpeculationPolicy::record(const SpeculationStep& step) {
  if (max_steps_ == 0) return;
  if (first_credit_ == 0 && step.steps == 0 && step.load.prefill_rows == 0)
    give_first_credit(step.forward_seconds);
  forward_.record(step.rows, step.forward_seconds);
  ++looks_.since;
  ++deeper_.since;
  ++blind_.since;
  ++since_plain_;
  if (step.steps > 0) {
    learn_draft(step);
  } else if (step.drafted.empty()) {
    ++plain_steps_;
    since_plain_ = 0;
  }
  count_blind(step);
  learn_acceptance(step);
  settle(step);
}

}  // namespace longshore::engine
