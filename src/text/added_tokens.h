// Finds added tokens ("<|user|>") in text before anything else splits it.
//
// The longest token at the leftmost place wins, as in `tokenizers`; tokens with `normalized` are
// looked for in a second pass over what the first left. Threading: immutable after build.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/tokenizer_json.h"

namespace longshore::text {

class AddedTokens {
 public:
  // Called for every part of a text in order: id >= 0 is an added token, -1 text between.
  using Sink = std::function<Result<void>(int32_t id, std::string_view part)>;

  explicit AddedTokens(const std::vector<AddedTokenSpec>& tokens);
  // text: well-formed UTF-8. Stops at the sink's first error.
  Result<void> split(std::string_view text, const Sink& sink) const;

 private:
  struct Token {
    int32_t id;
    bool lstrip;
    bool rstrip;
    bool single_word;
  };
  // A trie over bytes; node 0 is the root.
  class Trie {
   public:
    void insert(std::string_view content, int32_t token);
    // The longest entry that `text` starts with at `at`: token index and length, or -1.
    [[nodiscard]] std::pair<int32_t, size_t> longest(std::string_view text, size_t at) const;
    [[nodiscard]] bool may_start(char byte) const { return starts_[static_cast<uint8_t>(byte)]; }
    [[nodiscard]] bool empty() const { return edges_.empty(); }

   private:
    std::array<bool, 256> starts_{};
    std::unordered_map<uint64_t, int32_t> edges_;  // node << 8 | byte -> node
    std::vector<int32_t> token_of_{-1};            // by node
  };

  Result<void> split_with(const Trie& trie, std::string_view text, const Sink& sink) const;

  std::vector<Token> tokens_;
  Trie raw_;         // normalized false
  Trie normalized_;  // normalized true
};

}  // namespace longshore::text
