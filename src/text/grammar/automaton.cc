#include "text/grammar/automaton.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "text/grammar/strings.h"
#include "text/grammar/vocabulary.h"

namespace longshore::text {
namespace {

using Expr = Grammar::Expr;

// Expressions to an automaton between two states.
class NfaMaker {
 public:
  NfaMaker(const Grammar& grammar, Nfa& nfa, size_t limit)
      : grammar_(grammar), nfa_(nfa), limit_(limit) {}

  Result<void> add(ExprId id, uint32_t from, uint32_t to) {
    if (nfa_.edges() > limit_) {
      return fail(ErrorKind::kUsage, "the grammar is too large: more than {} transitions",
                  kMaxGrammarEdges);
    }
    const Expr& expr = grammar_.exprs()[id];
    switch (expr.kind) {
      case Expr::Kind::kText:
        nfa_.text(from, to, expr.text);
        return {};
      case Expr::Kind::kCodePoints:
        nfa_.code_points(from, to, expr.ranges);
        return {};
      case Expr::Kind::kSequence:
        return add_sequence(expr, from, to);
      case Expr::Kind::kChoice:
        for (const ExprId child : expr.children) LS_TRY_VOID(add(child, from, to));
        return {};
      case Expr::Kind::kRepeat:
        return add_repeat(expr, from, to);
      case Expr::Kind::kMembers:
        return add_members(expr, from, to);
      case Expr::Kind::kRule:
        nfa_.call(from, to, expr.rule);
        return {};
      case Expr::Kind::kMachine:
        nfa_.machine(from, to, *expr.machine);
        return {};
    }
    LS_FAIL("unknown expression");
  }

 private:
  Result<void> add_sequence(const Expr& expr, uint32_t from, uint32_t to) {
    for (size_t i = 0; i < expr.children.size(); ++i) {
      const uint32_t next = nfa_.add_state();
      LS_TRY_VOID(add(expr.children[i], from, next));
      from = next;
    }
    nfa_.skip(from, to);
    return {};
  }

  // Two rows of states: nothing is written yet, or something is and a comma must come.
  Result<void> add_members(const Expr& expr, uint32_t from, uint32_t to) {
    const auto step = [&](ExprId child, uint32_t bare, uint32_t after, uint32_t next) {
      const uint32_t comma = nfa_.add_state();
      nfa_.text(after, comma, ",");
      auto done = add(child, bare, next);
      return done ? add(child, comma, next) : done;
    };
    uint32_t bare = from;
    uint32_t after = nfa_.add_state();
    for (size_t i = 0; i < expr.required.size(); ++i) {
      const uint32_t next_bare = nfa_.add_state();
      const uint32_t next = nfa_.add_state();
      LS_TRY_VOID(step(expr.children[i], bare, after, next));
      if (!expr.required[i]) {
        nfa_.skip(bare, next_bare);
        nfa_.skip(after, next);
      }
      bare = next_bare;
      after = next;
    }
    if (expr.children.size() > expr.required.size())
      LS_TRY_VOID(step(expr.children.back(), bare, after, after));
    nfa_.skip(bare, to);
    nfa_.skip(after, to);
    return {};
  }

  Result<void> add_repeat(const Expr& expr, uint32_t from, uint32_t to) {
    const ExprId child = expr.children.front();
    for (uint32_t i = 0; i < expr.low; ++i) {
      const uint32_t next = nfa_.add_state();
      LS_TRY_VOID(add(child, from, next));
      from = next;
    }
    if (expr.high == UINT32_MAX) {
      const uint32_t loop = nfa_.add_state();
      nfa_.skip(from, loop);
      nfa_.skip(loop, to);
      return add(child, loop, loop);
    }
    for (uint32_t i = expr.low; i < expr.high; ++i) {
      // A state of its own: `from` may be entered again by what comes before it.
      const uint32_t begin = nfa_.add_state();
      nfa_.skip(from, begin);
      nfa_.skip(begin, to);
      from = nfa_.add_state();
      LS_TRY_VOID(add(child, begin, from));
    }
    nfa_.skip(from, to);
    return {};
  }

  const Grammar& grammar_;
  Nfa& nfa_;
  size_t limit_;
};

bool deterministic(const Machine& machine) {
  for (const Machine::State& state : machine.states) {
    for (const Machine::Call& call : state.calls) {
      if (call.rule == kNothing) return false;
    }
  }
  return true;
}

// The states from which plain text of any length leads to such states again.
class PlainStates {
 public:
  explicit PlainStates(const Machine& machine) : machine_(machine), plain_(machine.states.size()) {
    // Beyond these the search costs more than it saves.
    constexpr size_t kMostStates = 2000;
    constexpr int kMostPasses = 20;
    if (machine.states.size() > kMostStates) return;
    bool changed = false;
    for (size_t i = 0; i < plain_.size(); ++i) {
      const Machine::State& state = machine.states[i];
      plain_[i] = !state.accepting && state.calls.empty() && takes_letters(state);
      changed = changed || plain_[i];
    }
    for (int pass = 0; changed; ++pass) {
      if (pass == kMostPasses) {
        plain_.assign(plain_.size(), false);
        return;
      }
      changed = false;
      for (uint32_t i = 0; i < plain_.size(); ++i) {
        if (!plain_[i] || leads_to_plain(i)) continue;
        plain_[i] = false;
        changed = true;
      }
    }
  }
  [[nodiscard]] bool operator[](size_t state) const { return plain_[state]; }

 private:
  // A quick look before the long one.
  static bool takes_letters(const Machine::State& state) {
    return std::any_of(state.edges.begin(), state.edges.end(), [](const Machine::Edge& edge) {
      return edge.low <= 'a' && edge.high >= 'z';
    });
  }

  // Along every plain character beside any_text(), which knows where characters end.
  [[nodiscard]] bool leads_to_plain(uint32_t start) const {
    const Machine& text = any_text();
    std::vector<std::pair<uint32_t, uint32_t>> work = {{start, 0}};
    std::set<std::pair<uint32_t, uint32_t>> seen;
    while (!work.empty()) {
      const auto [state, place] = work.back();
      work.pop_back();
      for (int byte = 0; byte < 256; ++byte) {
        const auto value = static_cast<uint8_t>(byte);
        const auto next_place = text.next(place, value);
        const bool begins = text.states[place].accepting;
        if (!next_place || (begins && !is_plain(value))) continue;
        const auto next = machine_.next(state, value);
        if (!next) return false;
        if (text.states[*next_place].accepting) {
          if (!plain_[*next]) return false;
        } else if (machine_.states[*next].accepting) {
          return false;
        } else if (seen.emplace(*next, *next_place).second) {
          work.emplace_back(*next, *next_place);
        }
      }
    }
    return true;
  }

  const Machine& machine_;
  std::vector<bool> plain_;
};

}  // namespace

class AutomatonBuilder {
 public:
  explicit AutomatonBuilder(const Grammar& grammar)
      : grammar_(grammar), machines_(grammar.rules().size()) {}

  Result<std::shared_ptr<const Automaton>> build() {
    LS_TRY_VOID(make_machines());
    const std::vector<bool> productive = closed_under(/*over_bytes=*/true);
    if (!productive[grammar_.root]) {
      return fail(ErrorKind::kUsage, "{}: no text at all fits", empty_place(productive));
    }
    for (const RuleId rule : order_) {
      Machine& machine = machines_[rule];
      for (Machine::State& state : machine.states) {
        std::erase_if(state.calls, [&](const Machine::Call& call) {
          return call.rule != kNothing && !productive[call.rule];
        });
      }
      trim(machine);
    }
    const std::vector<bool> nullable = closed_under(/*over_bytes=*/false);
    made_.rules_.resize(machines_.size());
    made_.root_ = grammar_.root;
    for (const RuleId rule : order_) emit(rule, nullable[rule]);
    return std::make_shared<const Automaton>(std::move(made_));
  }

 private:
  // The machines of all rules that the root reaches; order_: callees mostly before callers.
  Result<void> make_machines() {
    std::vector<uint8_t> known(machines_.size(), 0);
    std::vector<std::pair<RuleId, bool>> work = {{grammar_.root, false}};
    size_t edges = 0;
    while (!work.empty()) {
      const auto [rule, done] = work.back();
      work.pop_back();
      if (done) order_.push_back(rule);
      if (done || known[rule] != 0) continue;
      known[rule] = 1;
      auto machine = machine_of(rule, edges);
      if (!machine) return too_large(rule);
      machines_[rule] = std::move(*machine);
      work.emplace_back(rule, true);
      for (const Machine::State& state : machines_[rule].states) {
        edges += state.edges.size() + state.calls.size();
        for (const Machine::Call& call : state.calls) {
          if (call.rule != kNothing && known[call.rule] == 0) work.emplace_back(call.rule, false);
        }
      }
      if (edges > kMaxGrammarEdges) return too_large(rule);
    }
    return {};
  }

  [[nodiscard]] tl::unexpected<Error> too_large(RuleId rule) const {
    return fail(ErrorKind::kUsage,
                "{}: the grammar is too large: with this more than {} transitions",
                grammar_.rules()[rule].name, kMaxGrammarEdges);
  }

  // Where to look for the reason that no text ends: down from the root as long as one rule alone
  // is to blame. Schemas' rules are named by their paths, which tell more than others.
  [[nodiscard]] std::string empty_place(const std::vector<bool>& productive) const {
    RuleId rule = grammar_.root;
    std::set<RuleId> seen;
    std::string place = grammar_.rules()[rule].name;
    while (seen.insert(rule).second) {
      const std::string& name = grammar_.rules()[rule].name;
      if (name.starts_with('#') || !place.starts_with('#')) place = name;
      std::set<RuleId> empty;
      for (const Machine::State& state : machines_[rule].states) {
        for (const Machine::Call& call : state.calls) {
          if (call.rule != kNothing && !productive[call.rule]) empty.insert(call.rule);
        }
      }
      if (empty.size() != 1) break;
      rule = *empty.begin();
    }
    return place;
  }

  Result<Machine> machine_of(RuleId id, size_t edges) {
    const Grammar::Rule& rule = grammar_.rules()[id];
    LS_CHECK_MSG(rule.defined, "rule {} has no body", rule.name);
    if (rule.strings) return *rule.strings;
    const Expr& body = grammar_.exprs()[rule.body];
    if (body.kind == Expr::Kind::kMachine) return *body.machine;
    Nfa nfa;
    const uint32_t from = nfa.add_state();
    const uint32_t to = nfa.add_state();
    LS_TRY_VOID(NfaMaker(grammar_, nfa, kMaxGrammarEdges - edges).add(rule.body, from, to));
    auto made = nfa.determinise(
        from, to, std::min(kMaxMachineStates, std::max<size_t>(4096, 4 * nfa.size())));
    return made ? std::move(*made) : nfa.as_it_is(from, to);
  }

  // The rules that end, over bytes and over rules that end (or over these alone). Every state is
  // reached once: where a call's rule is not known to end, the state waits for it.
  [[nodiscard]] std::vector<bool> closed_under(bool over_bytes) const {
    struct Spot {
      RuleId rule;
      uint32_t state;
    };
    std::vector<bool> ends(machines_.size(), false);
    std::vector<std::vector<bool>> reached(machines_.size());
    std::vector<std::vector<Spot>> waiting(machines_.size());
    std::vector<Spot> work;
    const auto reach = [&](Spot spot) {
      if (reached[spot.rule][spot.state]) return;
      reached[spot.rule][spot.state] = true;
      work.push_back(spot);
    };
    for (const RuleId rule : order_) {
      const Grammar::Rule& source = grammar_.rules()[rule];
      reached[rule].resize(machines_[rule].states.size(), false);
      const bool counts = !over_bytes && source.strings && source.counted.low > 0;
      if (!machines_[rule].empty() && !counts) reach({rule, 0});
    }
    while (!work.empty()) {
      const Spot at = work.back();
      work.pop_back();
      const Machine::State& state = machines_[at.rule].states[at.state];
      if (state.accepting && !ends[at.rule]) {
        ends[at.rule] = true;
        for (const Spot& spot : waiting[at.rule]) reach(spot);
        waiting[at.rule].clear();
      }
      if (over_bytes) {
        for (const Machine::Edge& edge : state.edges) reach({at.rule, edge.to});
      }
      for (const Machine::Call& call : state.calls) {
        if (call.rule == kNothing || ends[call.rule]) {
          reach({at.rule, call.to});
        } else {
          waiting[call.rule].push_back({at.rule, call.to});
        }
      }
    }
    return ends;
  }

  void emit(RuleId id, bool nullable) {
    const Machine& machine = machines_[id];
    const Grammar::Rule& source = grammar_.rules()[id];
    Automaton::Rule& rule = made_.rules_[id];
    rule.start = machine.empty() ? Automaton::kNone : static_cast<uint32_t>(made_.states_.size());
    const auto base = static_cast<uint32_t>(made_.states_.size());
    rule.nullable = nullable;
    rule.low = source.counted.low;
    rule.high = source.counted.high;
    const bool one_way = deterministic(machine);
    const Machine none;
    const PlainStates plain(one_way ? machine : none);
    size_t number = 0;
    for (const Machine::State& state : machine.states) {
      Automaton::State at;
      at.rule = id;
      at.accepting = state.accepting;
      at.deterministic = one_way;
      at.plain = one_way && plain[number++];
      at.edges_begin = static_cast<uint32_t>(made_.edges_.size());
      for (const Machine::Edge& edge : state.edges)
        made_.edges_.push_back({edge.low, edge.high, base + edge.to});
      at.edges_end = static_cast<uint32_t>(made_.edges_.size());
      at.calls_begin = static_cast<uint32_t>(made_.calls_.size());
      for (const Machine::Call& call : state.calls) {
        const Machine::State& to = machine.states[call.to];
        const bool last = to.accepting && to.edges.empty() && to.calls.empty();
        const bool tail = last && call.rule != kNothing;
        made_.calls_.push_back({call.rule, tail ? Automaton::kNone : base + call.to});
        rule.leaf = false;
      }
      at.calls_end = static_cast<uint32_t>(made_.calls_.size());
      if (source.strings) mark_counted(machine, state, source.counted.json, at);
      if (one_way && state.edges.size() > 4) add_dense(at);
      made_.states_.push_back(at);
    }
  }

  static void mark_counted(const Machine& machine, const Machine::State& state, bool json,
                           Automaton::State& at) {
    if (!json) {
      at.counted = state.accepting;
      return;
    }
    at.closing = state.accepting;
    for (const Machine::Edge& edge : state.edges) {
      // The quote that closes, not the one after a backslash.
      if (edge.low <= '"' && edge.high >= '"' && machine.states[edge.to].accepting)
        at.counted = true;
    }
  }

  void add_dense(Automaton::State& at) {
    at.dense = static_cast<uint32_t>(made_.dense_.size());
    made_.dense_.resize(made_.dense_.size() + 256, Automaton::kNone);
    for (uint32_t e = at.edges_begin; e < at.edges_end; ++e) {
      const Machine::Edge& edge = made_.edges_[e];
      std::fill(made_.dense_.begin() + at.dense + edge.low,
                made_.dense_.begin() + at.dense + edge.high + 1, edge.to);
    }
  }

  const Grammar& grammar_;
  std::vector<Machine> machines_;
  std::vector<RuleId> order_;
  Automaton made_;
};

Result<std::shared_ptr<const Automaton>> Automaton::compile(const Grammar& grammar) {
  return AutomatonBuilder(grammar).build();
}

uint32_t Automaton::next(uint32_t state, uint32_t& count, uint8_t byte) const {
  const State& at = states_[state];
  uint32_t to = kNone;
  if (at.dense != kNone) {
    to = dense_[at.dense + byte];
  } else {
    for (uint32_t e = at.edges_begin; e < at.edges_end; ++e) {
      if (byte < edges_[e].low) break;
      if (byte > edges_[e].high) continue;
      to = edges_[e].to;
      break;
    }
  }
  if (!at.counted || to == kNone) return to;
  const Rule& rule = rules_[at.rule];
  if (states_[to].closing) return count >= rule.low ? to : kNone;
  if (rule.high == UINT32_MAX) {
    count = std::min(count + 1, rule.low);
  } else if (++count > rule.high) {
    return kNone;
  }
  return to;
}

uint32_t Automaton::count_class(uint32_t state, uint32_t count, uint32_t longest_token) const {
  constexpr uint32_t kFar = UINT32_MAX;           // neither end is within reach
  constexpr uint32_t kTooShort = UINT32_MAX - 1;  // the lower end is not
  const Rule& rule = rules_[states_[state].rule];
  if (rule.low == 0 && rule.high == UINT32_MAX) return 0;
  const bool room = rule.high == UINT32_MAX || rule.high - count > longest_token;
  if (!room) return count;
  if (count >= rule.low) return kFar;
  return rule.low - count > longest_token ? kTooShort : count;
}

size_t Automaton::memory_bytes() const {
  return states_.size() * sizeof(State) + edges_.size() * sizeof(Machine::Edge) +
         calls_.size() * sizeof(Call) + dense_.size() * sizeof(uint32_t) +
         rules_.size() * sizeof(Rule);
}

}  // namespace longshore::text
