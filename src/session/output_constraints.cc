#include "session/output_constraints.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace longshore::session {
namespace {

// Formats that are kept, and bytes of masks that each may keep.
constexpr size_t kMostKept = 64;
constexpr size_t kMaskBytes = size_t{64} << 20;

class GrammarConstraint : public engine::TokenConstraint {
 public:
  GrammarConstraint(std::shared_ptr<text::MaskCache> masks, std::span<const int32_t> stop_ids)
      : masks_(std::move(masks)),
        stop_ids_(stop_ids.begin(), stop_ids.end()),
        matcher_(*masks_->automaton()),
        scratch_(*masks_->automaton()),
        ambiguous_(matcher_.exhausted()) {}

  void fill(engine::IdMask allowed) override {
    if (stopped_ || ambiguous_) {
      std::fill(allowed.begin(), allowed.end(), 0);
    } else {
      ambiguous_ = !masks_->fill(matcher_, scratch_, allowed);
    }
    if (ambiguous_ || !matcher_.ended()) return;
    for (const int32_t id : stop_ids_)
      allowed[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<uint32_t>(id) % 64);
  }

  void accept(int32_t id) override {
    drop_drafts();
    if (!advance(id)) {
      LS_CHECK_MSG(matcher_.exhausted(), "token {} was not allowed", id);
      ambiguous_ = true;
    } else if (!stopped_) {
      matcher_.settle();
      ambiguous_ = matcher_.exhausted();
    }
  }

  bool draft(int32_t id) override { return !stopped_ && !ambiguous_ && advance(id); }

  void drop_drafts() override {
    matcher_.pop_to(0);
    stopped_ = false;
  }

  [[nodiscard]] std::string_view fault() const override {
    return ambiguous_ ? "the grammar is too ambiguous, there are more ways to read the text than "
                        "can be followed: write it so that a text has few ways to be read"
                      : "";
  }

 private:
  // A token that is text here goes on, whatever else it means; the engine stops at stop ids anyway.
  bool advance(int32_t id) {
    const std::string_view bytes = masks_->vocabulary()->bytes(id);
    if (!bytes.empty() && matcher_.push_all(bytes)) return true;
    if (!bytes.empty() && matcher_.exhausted()) return false;
    const bool stops = std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
    if (!stops || !matcher_.ended()) return false;
    stopped_ = true;
    return true;
  }

  std::shared_ptr<text::MaskCache> masks_;
  std::vector<int32_t> stop_ids_;
  text::Matcher matcher_;
  text::Matcher scratch_;
  bool ambiguous_;  // too ambiguous to go on
  bool stopped_ = false;
};

class GrammarSource : public engine::ConstraintSource {
 public:
  explicit GrammarSource(std::shared_ptr<text::MaskCache> masks) : masks_(std::move(masks)) {}

  [[nodiscard]] std::unique_ptr<engine::TokenConstraint> start(std::span<const int32_t> stop_ids,
                                                               int64_t vocab) const override {
    LS_CHECK(vocab == masks_->vocabulary()->size());
    return std::make_unique<GrammarConstraint>(masks_, stop_ids);
  }

 private:
  std::shared_ptr<text::MaskCache> masks_;
};

}  // namespace

SharedConstraint make_constraint(std::shared_ptr<const text::Automaton> automaton,
                                 std::shared_ptr<const text::Vocabulary> vocabulary) {
  return std::make_shared<GrammarSource>(
      std::make_shared<text::MaskCache>(std::move(automaton), std::move(vocabulary), kMaskBytes));
}

OutputConstraints::OutputConstraints(const text::Tokenizer& tokenizer, int64_t vocab)
    : tokenizer_(tokenizer), vocab_(vocab) {}

std::shared_ptr<const text::Vocabulary> OutputConstraints::vocabulary() {
  std::call_once(once_, [&] {
    std::vector<std::string> tokens = text::tokens_of(tokenizer_);
    tokens.resize(static_cast<size_t>(vocab_));
    vocabulary_ = std::make_shared<const text::Vocabulary>(std::move(tokens));
  });
  return vocabulary_;
}

void OutputConstraints::keep(std::string key, const SharedConstraint& made) {
  const std::lock_guard lock(mutex_);
  if (places_.contains(key)) return;
  kept_.emplace_front(std::move(key), made);
  places_[kept_.front().first] = kept_.begin();
  if (kept_.size() <= kMostKept) return;
  places_.erase(kept_.back().first);
  kept_.pop_back();
}

tl::expected<SharedConstraint, text::FormatFault> OutputConstraints::compile(
    const text::OutputFormat& format) {
  std::string key = format.key();
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = places_.find(key); known != places_.end()) {
      kept_.splice(kept_.begin(), kept_, known->second);
      return kept_.front().second;
    }
  }
  auto grammar = text::output_grammar(format, [&](std::string_view text) {
    const auto id = tokenizer_.id_of(text);
    return id && *id < vocab_ && tokenizer_.is_added(*id) && !tokenizer_.is_special(*id);
  });
  if (!grammar) return tl::unexpected(grammar.error());
  auto automaton = text::Automaton::compile(*grammar);
  if (!automaton) {
    const char* part = format.schema ? "schema" : format.gbnf ? "grammar" : "tools";
    return tl::unexpected(text::FormatFault{part, automaton.error().message});
  }
  SharedConstraint made = make_constraint(std::move(*automaton), vocabulary());
  keep(std::move(key), made);
  return made;
}

}  // namespace longshore::session
