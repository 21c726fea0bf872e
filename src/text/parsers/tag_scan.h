// Finds markup such as `<tool_call>` in text that is still growing.
//
// Threading: free functions without state.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace longshore::text {

// What the parsers count as white space around markup.
inline constexpr std::string_view kBlank = " \t\r\n";

struct TagHit {
  static constexpr int kNone = -1;
  static constexpr int kPartial = -2;  // the text ends inside what may become a tag
  size_t begin;                        // with kNone: the end of the text
  int tag;                             // index into the tags
};

// The first tag at or after `from`. Every tag starts with '<' and holds no other.
// Only text before `begin` is decided: with kNone and kPartial the caller goes on from there when
// more has come.
[[nodiscard]] inline TagHit find_tag(std::string_view text, size_t from,
                                     std::span<const std::string_view> tags) {
  for (size_t at = text.find('<', from); at != std::string_view::npos;
       at = text.find('<', at + 1)) {
    const std::string_view rest = text.substr(at);
    for (size_t tag = 0; tag < tags.size(); ++tag) {
      if (rest.starts_with(tags[tag])) return {at, static_cast<int>(tag)};
    }
    for (const std::string_view tag : tags) {
      if (tag.starts_with(rest)) return {at, TagHit::kPartial};
    }
  }
  return {text.size(), TagHit::kNone};
}

[[nodiscard]] inline std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
}

// Whether the start of a tag at the very end of the output is shown. A model that stopped by itself
// does not stop inside a tag, so it is text; after a cut, what is clearly markup goes.
[[nodiscard]] inline bool shows_partial_tag(std::string_view partial, bool stopped) {
  constexpr size_t kClearlyMarkup = 5;  // "<tool"
  return stopped || partial.size() < kClearlyMarkup;
}

}  // namespace longshore::text
