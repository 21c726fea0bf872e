// The tokens of a vocabulary in the order of their bytes, as a trie: what a grammar is walked over.
//
// Ordinary tokens stand for their bytes; added tokens that may be generated for kAddedToken and
// their text (grammar.h); special ones for nothing, no grammar allows them. Most tokens are plain
// text, which the middle of a string takes whole: those are kept as masks beside the trie.
// Threading: immutable after construction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace longshore::text {

class Vocabulary {
 public:
  // tokens[id]: its bytes in a grammar; empty: never allowed.
  explicit Vocabulary(std::vector<std::string> tokens);

  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  [[nodiscard]] std::string_view bytes(int32_t id) const {
    return tokens_[static_cast<size_t>(id)];
  }
  [[nodiscard]] uint32_t longest() const { return longest_; }

  // The trie: nodes in preorder, the root (of no bytes) first. A node's subtree is [node, end).
  struct Node {
    uint32_t end;
    uint32_t ids;  // of the tokens that end here: [ids, the next node's ids) of ids()
    uint16_t depth;
    uint8_t byte;  // the last one of its path
  };
  [[nodiscard]] std::span<const Node> nodes() const { return {nodes_.data(), nodes_.size() - 1}; }
  [[nodiscard]] std::span<const int32_t> ids_of(uint32_t node) const {
    return std::span(ids_).subspan(nodes_[node].ids, nodes_[node + 1].ids - nodes_[node].ids);
  }

  // Plain tokens are whole characters of is_plain(). The mask of those with at most that many.
  [[nodiscard]] std::span<const uint64_t> plain(uint32_t characters) const {
    return plain_[std::min<size_t>(characters, plain_.size() - 1)];
  }
  // The trie without what leads to plain tokens alone: its nodes, with their numbers in nodes() for
  // `ids`, and their ends in this list.
  [[nodiscard]] std::span<const Node> others() const { return others_; }

 private:
  void build();
  void find_plain();

  std::vector<std::string> tokens_;
  uint32_t longest_ = 0;
  std::vector<Node> nodes_;  // and one after the last
  std::vector<int32_t> ids_;
  std::vector<std::vector<uint64_t>> plain_;  // by the number of characters
  std::vector<Node> others_;
};

// Not a control character, quote, backslash or `<`, which begins a tag.
[[nodiscard]] constexpr bool is_plain(uint32_t code_point) {
  return code_point >= 0x20 && code_point != '"' && code_point != '\\' && code_point != '<';
}

// What a tokenizer's tokens stand for in a grammar; nothing where they have a byte of no UTF-8.
[[nodiscard]] std::vector<std::string> tokens_of(const Tokenizer& tokenizer);

}  // namespace longshore::text
