// Formats of outputs as constraints for the engine: compiled once, kept for the next request with
// the same format.
//
// Ownership: what compile() gives lives by itself; the tokenizer outlives the store. Threading: any
// thread; two that ask for the same new format at once may both compile it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "engine/constraint.h"
#include "text/grammar/mask_cache.h"
#include "text/grammar/output_grammar.h"
#include "text/tokenizer.h"

namespace longshore::session {

using SharedConstraint = std::shared_ptr<const engine::ConstraintSource>;

class OutputConstraints {
 public:
  // vocab: the model's.
  OutputConstraints(const text::Tokenizer& tokenizer, int64_t vocab);

  // Of a format that constrains. The fault's message is what a client may see.
  tl::expected<SharedConstraint, text::FormatFault> compile(const text::OutputFormat& format);

 private:
  [[nodiscard]] std::shared_ptr<const text::Vocabulary> vocabulary();
  void keep(std::string key, const SharedConstraint& made);

  const text::Tokenizer& tokenizer_;
  int64_t vocab_;
  std::once_flag once_;
  std::shared_ptr<const text::Vocabulary> vocabulary_;  // made for the first format
  std::mutex mutex_;
  // The last used first.
  std::list<std::pair<std::string, SharedConstraint>> kept_;
  std::unordered_map<std::string, decltype(kept_)::iterator> places_;
};

// Of a grammar over a vocabulary.
[[nodiscard]] SharedConstraint make_constraint(std::shared_ptr<const text::Automaton> automaton,
                                               std::shared_ptr<const text::Vocabulary> vocabulary);

}  // namespace longshore::session
