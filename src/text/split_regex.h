// The regular expression of a pre-tokenizer, run by PCRE2 with the results that Oniguruma gives
// inside `tokenizers`.
//
// Only the constructs on which both engines agree (after unicode_stand_ins.h) are taken; others are
// refused by name: see split_regex.cc. Threading: immutable after compile; every thread uses its
// own Scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace longshore::text {

class SplitRegex {
 public:
  // The buffers of one caller; cheap to keep, some kilobytes.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class SplitRegex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  // kModel: a syntax error or a construct that is not taken; `where` names file and key.
  static Result<SplitRegex> compile(std::string_view pattern, const std::string& where);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;
  SplitRegex& operator=(SplitRegex&&) noexcept;

  // Appends the end offsets of the pieces of `text` (well-formed UTF-8): every match and every gap
  // between two matches is a piece, none is empty. Error kModel: the pattern backtracks beyond its
  // bound.
  Result<void> split(std::string_view text, Scratch& scratch, std::vector<size_t>& ends) const;

 private:
  struct Impl;
  explicit SplitRegex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// \w of Rust's regular expressions (UTS 18, annex C): what `tokenizers` takes as a character of a
// word.
[[nodiscard]] bool is_word_character(uint32_t code_point);

}  // namespace longshore::text
