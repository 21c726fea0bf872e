#include "bench/draft_recall.h"

#include <algorithm>
#include <array>
#include <tuple>

#include <fmt/format.h>

#include "bench/prefetch_replay.h"
#include "bench/routing_hints.h"

namespace longshore::bench {
namespace {

enum class Sign : uint8_t { kDraft, kId, kBoth, kBefore, kUse, kWorth, kOracle };

struct Named {
  Sign sign;
  const char* name;
};
constexpr std::array kForeseeing = {
    Named{Sign::kDraft, "the draft's routing"}, Named{Sign::kId, "the token's id"},
    Named{Sign::kBefore, "the token before"}, Named{Sign::kUse, "use alone"}};
constexpr std::array kBringing = {Named{Sign::kDraft, "the draft's routing"},
                                  Named{Sign::kId, "the token's id"},
                                  Named{Sign::kBoth, "both of these"},
                                  Named{Sign::kBefore, "the token before"},
                                  Named{Sign::kUse, "use alone"},
                                  Named{Sign::kWorth, "the cache's worth"},
                                  Named{Sign::kOracle, "an oracle"}};

constexpr int64_t kPieces = ReplayCosts().pieces;

// A token of a prompt, and what is known before the target sees it.
struct Token {
  const PromptRoutes* routes;
  std::span<const int32_t> ids;
  size_t at = 0;

  [[nodiscard]] std::span<const int32_t> used(size_t layer) const {
    return routes->target[layer][at];
  }
  [[nodiscard]] std::span<const int32_t> before(size_t layer) const {
    return routes->target[layer][at - 1];
  }
  // The draft's row before has read this token.
  [[nodiscard]] std::span<const int32_t> draft() const { return routes->draft[0][at - 1]; }
  [[nodiscard]] std::span<const int32_t> id() const { return ids.subspan(at, 1); }
};

class Judge {
 public:
  Judge(const offload::HostExperts& experts)
      : layers_(static_cast<size_t>(experts.layers())),
        experts_(static_cast<size_t>(experts.per_layer())),
        by_draft_(experts.layers(), experts.per_layer()),
        by_id_(experts.layers(), experts.per_layer()),
        by_both_(experts.layers(), experts.per_layer()) {}

  void learn(const Token& token) {
    for (size_t layer = 0; layer < layers_; ++layer) {
      by_draft_.learn(static_cast<int64_t>(layer), token.draft(), token.used(layer));
      by_id_.learn(static_cast<int64_t>(layer), token.id(), token.used(layer));
      by_both_.learn(static_cast<int64_t>(layer), both(token), token.used(layer));
    }
  }
  void keep(const Token& token) { judged_.push_back(token); }
  void add_recall(const std::string& set, int64_t first_layer, Report& report) const;
  void add_replays(const std::string& set, Report& report) const;

 private:
  // The draft's experts, and the id behind them.
  [[nodiscard]] std::vector<int32_t> both(const Token& token) const {
    std::vector<int32_t> signs(token.draft().begin(), token.draft().end());
    signs.push_back(token.id().front() + static_cast<int32_t>(experts_));
    return signs;
  }
  // Likeliest first. replay: of kWorth.
  [[nodiscard]] std::vector<int32_t> order(Sign sign, const Token& token, size_t layer,
                                           const PrefetchReplay* replay) const;
  struct Ahead {
    Sign sign = Sign::kUse;
    int64_t most = 0;  // experts a layer
  };
  [[nodiscard]] ReplayCounts replay(int64_t slots, const Ahead& ahead, Wire wire,
                                    int64_t pieces) const;
  void add_ahead(const std::string& name, int64_t slots, const Ahead& ahead, Report& report) const;

  size_t layers_;
  size_t experts_;
  RoutingCounts by_draft_;
  RoutingCounts by_id_;
  RoutingCounts by_both_;
  std::vector<Token> judged_;
};

std::vector<int32_t> Judge::order(Sign sign, const Token& token, size_t layer,
                                  const PrefetchReplay* replay) const {
  const auto index = static_cast<int64_t>(layer);
  switch (sign) {
    case Sign::kDraft:
      return by_draft_.likeliest(index, token.draft());
    case Sign::kId:
      return by_id_.likeliest(index, token.id());
    case Sign::kBoth:
      return by_both_.likeliest(index, both(token));
    case Sign::kBefore:
      return {token.before(layer).begin(), token.before(layer).end()};
    case Sign::kOracle:
      return {token.used(layer).begin(), token.used(layer).end()};
    case Sign::kUse:
    case Sign::kWorth:
      break;
  }
  std::vector<int32_t> experts = by_draft_.most_used(index);
  if (sign == Sign::kUse) return experts;
  const auto worth = [&](int32_t e) { return replay->worth(static_cast<int32_t>(layer), e); };
  std::stable_sort(experts.begin(), experts.end(),
                   [&](int32_t a, int32_t b) { return worth(a) > worth(b); });
  return experts;
}

void Judge::add_recall(const std::string& set, int64_t first_layer, Report& report) const {
  for (size_t layer = 0; layer < layers_; ++layer) {
    for (const auto& [sign, name] : kForeseeing) {
      size_t wanted = 0;
      size_t found = 0;
      for (const Token& token : judged_) {
        const std::span<const int32_t> used = token.used(layer);
        std::vector<int32_t> foreseen = order(sign, token, layer, nullptr);
        foreseen.resize(used.size());
        wanted += used.size();
        found += static_cast<size_t>(std::count_if(used.begin(), used.end(), [&](int32_t expert) {
          return std::find(foreseen.begin(), foreseen.end(), expert) != foreseen.end();
        }));
      }
      report.rows.push_back(
          {fmt::format("{}, layer {}: foreseen by {}", set,
                       first_layer + static_cast<int64_t>(layer), name),
           static_cast<double>(found) / static_cast<double>(std::max<size_t>(wanted, 1)), "", 0});
    }
  }
}

ReplayCounts Judge::replay(int64_t slots, const Ahead& ahead, Wire wire, int64_t pieces) const {
  PrefetchReplay replay(static_cast<int32_t>(layers_), static_cast<int32_t>(experts_), slots,
                        ahead.most, wire, {.pieces = pieces});
  for (const Token& token : judged_) {
    replay.begin_step();
    for (size_t layer = 0; layer < layers_; ++layer) {
      replay.layer(static_cast<int32_t>(layer), token.used(layer), [&](int32_t of) {
        return order(ahead.sign, token, static_cast<size_t>(of), &replay);
      });
    }
  }
  return replay.counts();
}

void Judge::add_ahead(const std::string& name, int64_t slots, const Ahead& ahead,
                      Report& report) const {
  const auto add = [&](const char* what, double value, const char* unit) {
    report.rows.push_back({fmt::format("{}: {}", name, what), value, unit, 0});
  };
  const ReplayCounts all = replay(slots, ahead, Wire::kUnlimited, kPieces);
  add("of the missing", all.recall() * 100, "%");
  add("of the brought", all.precision() * 100, "%");
  add("hits", all.hit_rate() * 100, "%");
  add("brought", all.ahead_a_layer(), "a layer");
  for (const auto& [pieces, what, idle] :
       {std::tuple{kPieces, "speed, queued", "speed, idle wire only"},
        std::tuple{int64_t{1}, "speed, queued, none shared",
                   "speed, idle wire only, none shared"}}) {
    const double plain = replay(slots, {}, Wire::kUnlimited, pieces).seconds;
    add(what, plain / replay(slots, ahead, Wire::kQueued, pieces).seconds, "");
    add(idle, plain / replay(slots, ahead, Wire::kIdleOnly, pieces).seconds, "");
  }
}

void Judge::add_replays(const std::string& set, Report& report) const {
  for (const int64_t percent : {0, 15, 50}) {
    const auto slots = static_cast<int64_t>(layers_ * experts_) * percent / 100;
    const std::string where = fmt::format("{}, {} % resident", set, percent);
    const ReplayCounts shared = replay(slots, {}, Wire::kUnlimited, kPieces);
    const ReplayCounts whole = replay(slots, {}, Wire::kUnlimited, 1);
    report.rows.push_back({where + ": hits", shared.hit_rate() * 100, "%", 0});
    report.rows.push_back({where + ": wire at work", shared.wire_busy() * 100, "%", 0});
    report.rows.push_back({where + ": wire at work, none shared", whole.wire_busy() * 100, "%", 0});
    for (const auto& [sign, name] : kBringing) {
      for (const int64_t most : {1, 2, 4})
        add_ahead(fmt::format("{}, {} a layer by {}", where, most, name), slots, {sign, most},
                  report);
    }
  }
}

}  // namespace

Result<Report> draft_recall(session::LoadedModel& loaded, const std::vector<PromptSet>& sets,
                            const CancelToken& cancel) {
  const offload::HostExperts& experts = loaded.model->experts().experts();
  if (experts.size() == 0) return fail(ErrorKind::kUsage, "--recall: there are no experts");
  Report report{.bench = "draft recall",
                .machine = machine_name(loaded.pool->size()),
                .ceilings = {},
                .rows = {}};
  for (const PromptSet& set : sets) {
    Judge judge(experts);
    std::vector<PromptRoutes> routes;
    routes.reserve(set.prompts.size());
    for (size_t i = 0; i < set.prompts.size(); ++i) {
      LS_TRY(routes.emplace_back(), record_routes(loaded, set.prompts[i], cancel));
      for (size_t t = 1; t < set.prompts[i].size(); ++t) {
        const Token token{&routes.back(), set.prompts[i], t};
        i < set.prompts.size() / 2 ? judge.learn(token) : judge.keep(token);
      }
    }
    judge.add_recall(set.name, loaded.checkpoint->config().first_k_dense, report);
    judge.add_replays(set.name, report);
  }
  return report;
}

}  // namespace longshore::bench
