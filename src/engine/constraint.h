// What an output may be: at every place, the ids that may come next. Who knows why is not the
// engine's business.
//
// Ownership: a request shares its source; every sequence has a constraint of its own. Threading: a
// source is immutable and used by any thread; a constraint by one thread at a time, not always the
// same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace longshore::engine {

// Ids as bits, 64 in a word, the lowest bit first.
using IdMask = std::span<uint64_t>;
[[nodiscard]] constexpr size_t id_mask_words(int64_t vocab) {
  return static_cast<size_t>((vocab + 63) / 64);
}

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // The ids that may come next, stop ids included where the output may end; none: it can neither go
  // on nor end. allowed: id_mask_words(vocab) words, overwritten.
  virtual void fill(IdMask allowed) = 0;
  // One of the ids that fill() allowed has been chosen.
  virtual void accept(int32_t id) = 0;

  // For guesses that may be taken back: goes on by `id` for fill() and further guesses; false where
  // it is not allowed. drop_drafts() goes back to the last accept().
  virtual bool draft(int32_t id) = 0;
  virtual void drop_drafts() = 0;

  // Why the last fill() allowed nothing, for whoever asked; empty: nothing can go on here.
  [[nodiscard]] virtual std::string_view fault() const { return {}; }
};

class ConstraintSource {
 public:
  virtual ~ConstraintSource() = default;
  // At the beginning of an output that these ids end. vocab: how many ids the model has.
  [[nodiscard]] virtual std::unique_ptr<TokenConstraint> start(std::span<const int32_t> stop_ids,
                                                               int64_t vocab) const = 0;
};

}  // namespace longshore::engine
