// How many tokens to draft in the next step, from what was measured: acceptance per depth, seconds
// of a forward pass by its rows, seconds of a draft step by its rows. Pure: no clock, no model.
//
// Expected tokens of a step with k drafts for each of B sequences: B (1 + a1 + a1 a2 + ...), a_d
// the part of the drafts at depth d that was right where all before it were (Leviathan et al.,
// arXiv 2211.17192, with acceptance by depth). Its seconds: F(P + B (1 + k)) + D(B, k), and where
// the draft must first read what it has not read, that as an investment: spread over the tokens
// that the sequences are expected to stay for. The k with the most tokens per second is chosen, and
// 0 unless it gains more than kMargin.
//
// A wrong choice is paid out of a ledger: time lost against plain decoding is charged, an
// investment in parts, time gained and a small part of all time is credited, and without credit
// nothing is drafted. So what speculation can cost is bounded whatever the drafts are worth, and
// what looked worthless is tried again from time to time.
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
};

// What a step with decoding sequences came to.
struct SpeculationStep {
  SpeculationLoad load;
  int64_t steps = 0;                   // drafted at most, of any sequence
  int64_t rows = 0;                    // of the forward pass
  double forward_seconds = 0;          // the rest of the step included
  double draft_seconds = 0;            // reading the backlog included
  int64_t tokens = 0;                  // that the decoding sequences got
  std::vector<int64_t> drafted = {};   // [depth]
  std::vector<int64_t> accepted = {};  // [depth]
};

class SpeculationPolicy {
 public:
  explicit SpeculationPolicy(int64_t max_steps);

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
  void learn_draft(const SpeculationStep& step);
  void learn_acceptance(const SpeculationStep& step);
  void settle(const SpeculationStep& step);

  struct Acceptance {
    double part = 0;
    int64_t count = 0;
  };
  int64_t max_steps_;
  std::vector<Acceptance> acceptance_;  // [max_steps]
  RowCosts forward_;
  RowCosts draft_;    // of one draft step, by sequences
  RowCosts reading_;  // of the backlog, by its rows
  ExpertGrowth growth_;
  double stay_ = 0;      // tokens of a sequence
  int64_t ended_ = 0;    // sequences, as far as stay_ remembers
  double invested_ = 0;  // seconds that are not charged yet
  double read_ = 0;      // seconds of the last step's reading
  double credit_ = 0;
  int64_t plain_steps_ = 0;  // ever
  int64_t since_plain_ = 0;  // steps since the last one without drafts
  int64_t since_look_ = 0;   // steps with drafts since a deeper one was tried
};

}  // namespace longshore::engine
