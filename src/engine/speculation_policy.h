// How many tokens to draft in the next step, from what was measured: acceptance per depth, seconds
// of a forward pass by its rows, seconds of a draft by its depth and sequences. Pure: no clock, no
// model.
//
// Expected tokens of a step with k drafts for each of B sequences: B (1 + a1 + a1 a2 + ...), a_d
// the part of the drafts at depth d that was right where all before it were (Leviathan et al.,
// arXiv 2211.17192, with acceptance by depth). Its seconds: F(P + B (1 + k)) + D(B, k), and where
// the draft must first read what it has not read, that, spread over the tokens that the sequences
// are expected to stay for. The k with the most tokens per second is chosen, and 0 unless it gains
// more than kMargin.
//
// All of it is paid out of a ledger, which begins with two plain steps: what a step takes longer
// than plain decoding of its tokens is charged at once, readings included; gains are credited up to
// some steps, and so is kAllowance of all time. A step with drafts is made only where the ledger
// holds what it costs if every draft is wrong, but for the first two, which tell that, and the
// first reading, whose price nobody knows. So over the engine's life drafting loses at most
// kAllowance of the time, two plain steps and these, whatever the drafts are
// worth. What does not seem to pay is looked at again, at intervals that double while the looks
// fail.
//
// A draft that has read hardly anything is right too seldom to judge all by: such a sequence is
// blind. It drafts with the others, reads its rows as it goes and soon is not; until then its
// guesses are charged, and teach nothing.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace longshore::engine {

// Expected number of distinct experts that `tokens` neighbouring tokens use in a layer, each
// `per_token` of `experts`; overlap: the part of a token's experts that it shares with the token
// before it, the others uniform. tokens >= 1.
[[nodiscard]] double expert_union(double tokens, double experts, double per_token, double overlap);
// The overlap, in [0, 1], with which `tokens` >= 2 neighbouring tokens use `distinct` experts.
[[nodiscard]] double overlap_of(double distinct, double tokens, double experts, double per_token);

// How the seconds of a forward pass grow with its rows where they were never measured: with the
// experts that more rows bring.
struct ExpertGrowth {
  double experts = 0;      // of a layer; 0: grow by rows
  double per_token = 0;    // of these, a token's
  double overlap = 0;      // between neighbouring tokens
  double expert_part = 0;  // of a row's bytes that its experts are, 0 to 1
  // What a pass of so many rows comes to: linear in the distinct experts, 1 for one row.
  [[nodiscard]] double factor(int64_t rows) const;
};

// Seconds by number of rows: moving averages where measured, between and beyond them straight lines
// over ExpertGrowth::factor.
class RowCosts {
 public:
  void record(int64_t rows, double seconds);
  // Nothing: never measured.
  [[nodiscard]] std::optional<double> at(int64_t rows, const ExpertGrowth& growth = {}) const;
  // Whether some measured count is within a quarter of `rows`.
  [[nodiscard]] bool knows(int64_t rows) const;

 private:
  struct Mean {
    double seconds = 0;
    int64_t count = 0;
  };
  std::map<int64_t, Mean> means_;
};

struct SpeculationLoad {
  int64_t sequences = 0;     // that decode, at least 1
  int64_t prefill_rows = 0;  // beside them
  // What the draft must read before its first guess, more than the last step's rows, of all
  // sequences.
  int64_t backlog = 0;
  int64_t blind = 0;  // of the sequences, once that is read
};

// What a step with decoding sequences came to.
struct SpeculationStep {
  SpeculationLoad load = {};
  int64_t steps = 0;  // that the draft went deep at most; 0: its guesses, if any, are older
  int64_t rows = 0;   // of the forward pass
  double forward_seconds = 0;  // the rest of the step included
  double draft_seconds = 0;    // of `steps`, reading the backlog included
  int64_t tokens = 0;          // that the decoding sequences got
  // Guesses of sequences that are not blind.
  std::vector<int64_t> drafted = {};   // [depth], as deep as any
  std::vector<int64_t> accepted = {};  // [depth]
};

// Seconds that were measured at the start, before any request.
struct MeasuredCosts {
  RowCosts forward;             // of passes of the target
  std::vector<RowCosts> draft;  // [depth - 1] of drafts, by sequences
};

class SpeculationPolicy {
 public:
  // Rows that a draft must have read one after the other, or all there are: with fewer a sequence
  // is blind.
  static constexpr int64_t kSight = 8;

  explicit SpeculationPolicy(int64_t max_steps, const MeasuredCosts& measured = {});

  // 0..max_steps.
  [[nodiscard]] int64_t choose(const SpeculationLoad& load);
  void record(const SpeculationStep& step);
  // A sequence ended after so many tokens: how long others are expected to stay.
  void record_end(int64_t tokens);
  // overlap is measured by record_experts() from then on.
  void set_growth(const ExpertGrowth& growth) { growth_ = growth; }
  // A pass of so many rows of decoding sequences used `distinct` experts in a layer on average.
  void record_experts(int64_t rows, double distinct);

  // Conditional acceptance at depth 0..max_steps-1; the prior where nothing was measured.
  [[nodiscard]] double acceptance(int64_t depth) const;
  // Tokens a second with `steps` drafts, as far as known.
  [[nodiscard]] std::optional<double> rate(const SpeculationLoad& load, int64_t steps) const;
  [[nodiscard]] double credit() const { return credit_; }  // seconds
  [[nodiscard]] double stay() const { return stay_; }      // tokens
  [[nodiscard]] const ExpertGrowth& growth() const { return growth_; }

 private:
  // Seconds of a step without its reading, as far as known.
  [[nodiscard]] std::optional<double> cost(const SpeculationLoad& load, int64_t steps) const;
  [[nodiscard]] std::optional<double> draft_cost(int64_t sequences, int64_t steps) const;
  [[nodiscard]] double reading_cost(const SpeculationLoad& load) const;
  // What the step loses if every draft is wrong.
  [[nodiscard]] double risk(const SpeculationLoad& load, int64_t steps) const;
  [[nodiscard]] int64_t best(const SpeculationLoad& load) const;
  // Whether one draft for each would pay if this part of them were right; whether it may, as little
  // as is known of that part.
  [[nodiscard]] bool pays_at(const SpeculationLoad& load, double acceptance) const;
  [[nodiscard]] bool may_pay(const SpeculationLoad& load) const;
  int64_t look_deeper(const SpeculationLoad& load, int64_t steps);
  void give_first_credit(double plain_seconds);
  // Where all are blind.
  int64_t choose_blind(const SpeculationLoad& load);
  void learn_draft(const SpeculationStep& step);
  void count_blind(const SpeculationStep& step);
  void learn_acceptance(const SpeculationStep& step);
  void settle(const SpeculationStep& step);

  struct Acceptance {
    double part = 0;
    int64_t count = 0;  // guesses
  };
  // Looks at what does not seem to pay: steps between them, and since the last.
  struct Looks {
    int64_t wait = 0;
    int64_t since = 0;
  };
  int64_t max_steps_;
  std::vector<Acceptance> acceptance_;  // [max_steps]
  RowCosts forward_;
  std::vector<RowCosts> draft_;  // [max_steps] of a draft of depth + 1, by sequences
  RowCosts reading_;             // of the backlog, by its rows
  ExpertGrowth growth_;
  double first_credit_ = 0;      // seconds; 0: not given yet
  int64_t first_drafts_ = 0;     // that are to come
  double stay_ = 0;              // tokens of a sequence
  int64_t ended_ = 0;            // sequences, as far as stay_ remembers
  double credit_ = 0;            // seconds
  int64_t plain_steps_ = 0;      // ever
  int64_t since_plain_ = 0;      // steps since the last one without drafts
  bool looking_ = false;         // the step that was chosen last is a look at drafting at all
  Looks looks_;                  // at drafting at all
  Looks deeper_;                 // a step deeper than the best
  int64_t deeper_than_ = 0;      // the best that deeper_ is about
  Looks blind_;                  // drafts where all are blind
  bool blind_goes_on_ = false;   // the last step had such
  bool sight_was_paid_ = false;  // by such, and no step without guesses has come since
  int64_t blind_steps_ = 0;      // that had, since a guess taught something
};

}  // namespace longshore::engine
